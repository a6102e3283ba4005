#!/bin/sh
# `bintally agent doctor` as the service would run: as its user, with its secrets, inside its sandbox and with its devices.
# install.sh installs it as bintally-doctor. Options go to the doctor, for example --json.
set -eu
unit=bintally-doctor.service
fail() { echo "bintally-doctor: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "must run as root (sudo bintally-doctor): only root may hand out the service's secrets"
[ -d /run/systemd/system ] || fail "no systemd runs here; run: bintally agent doctor --config FILE"
for word in "$@"; do
  case $word in *[!a-zA-Z0-9._/=-]* | '') fail "cannot pass on '$word'" ;; esac
done

said=$(mktemp)
# Also after Ctrl-C, which ends only the waiting for it.
# shellcheck disable=SC2317 # the trap reaches it
clean_up() {
  systemctl stop --quiet "$unit" 2>/dev/null || true
  systemctl reset-failed --quiet "$unit" 2>/dev/null || true
  rm -f "/run/systemd/system/$unit" "$said"
  systemctl daemon-reload
}
trap clean_up EXIT
trap 'exit 130' HUP INT TERM
# The agent's unit with its overrides, and what is different about a doctor. The folder in /run stays the agent's.
{
  systemctl cat bintally-agent.service
  cat <<UNIT
[Service]
Type=oneshot
ExecStart=
ExecStart=/opt/bintally/current/bin/bintally agent doctor --config /etc/bintally/agent.toml $*
WatchdogSec=0
Restart=no
RuntimeDirectory=
StandardOutput=append:$said
StandardError=append:$said
UNIT
} >"/run/systemd/system/$unit"
systemctl daemon-reload
code=0
systemctl start --quiet "$unit" 2>/dev/null || code=1
cat "$said"
[ "$code" -eq 0 ] || [ -s "$said" ] || fail "it did not start: journalctl -u $unit -n 20"
exit "$code"

#!/bin/sh
# Removes the bintally agent. Configuration, secrets, bundles and counts that are not delivered yet stay, unless --purge.
set -eu

usage() {
  cat <<'USAGE'
usage: uninstall.sh [--root DIR] [--purge] [--dry-run]

  --root DIR  what `install.sh --root DIR` has installed
  --purge     also /etc/bintally, /var/lib/bintally, /var/cache/bintally and the user: undelivered counts are gone for good
  --dry-run   say what would be done
USAGE
}

root='' purge=no dry=no
fail() { echo "uninstall.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --root) [ $# -ge 2 ] || fail "$1 needs a value"; root=${2%/}; shift ;;
    --purge) purge=yes ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done
[ -n "$root" ] || [ "$dry" = yes ] || [ "$(id -u)" -eq 0 ] || fail "must run as root (sudo sh deploy/uninstall.sh), or with --root DIR"

run() { if [ "$dry" = yes ]; then echo "would run: $*"; else "$@"; fi; }
remove() {
  for path in "$@"; do
    [ -e "$root$path" ] || [ -L "$root$path" ] || continue
    echo "removing $path"
    run rm -rf "$root$path"
  done
}

if [ -z "$root" ] && [ -e /etc/systemd/system/bintally-agent.service ]; then
  run systemctl disable --now --quiet bintally-agent || true
fi
remove /etc/systemd/system/bintally-agent.service /etc/systemd/system/bintally-agent.service.d/jetson.conf
[ ! -d "$root/etc/systemd/system/bintally-agent.service.d" ] || [ "$dry" = yes ] ||
  rmdir "$root/etc/systemd/system/bintally-agent.service.d" 2>/dev/null ||
  echo "keeping /etc/systemd/system/bintally-agent.service.d, which has settings of your own"
remove /usr/local/bin/bintally /usr/local/sbin/bintally-doctor /usr/local/share/doc/bintally /opt/bintally /etc/tmpfiles.d/bintally.conf
if [ "$purge" = yes ]; then
  remove /etc/bintally /var/lib/bintally /var/cache/bintally /etc/sysusers.d/bintally.conf
  if [ -z "$root" ] && id bintally >/dev/null 2>&1; then run userdel bintally; fi
else
  # The user stays with its files: a number without a name would be given to the next user.
  echo "keeping /etc/bintally and /var/lib/bintally; --purge removes them"
fi
[ -n "$root" ] || run systemctl daemon-reload

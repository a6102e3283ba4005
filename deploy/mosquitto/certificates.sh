#!/bin/sh
# A site's own certificate authority, for the broker and its clients. Needs openssl 1.1.1 or newer.
# Keys are readable by their owner alone; certificates and the list of those taken back are public, and the broker reads them
# as a user of its own (docs/operations.md, "The broker", copies them).
# Renewing writes the new files beside the old ones and renames them: the agent reads them at its next connect, mosquitto on
# `systemctl reload mosquitto`.
set -eu
umask 077

usage() {
  cat <<'USAGE'
usage: certificates.sh [--dir DIR] [--days N] COMMAND

  init                    make the authority: ca.key, which must never leave this machine, and ca.crt (10 years)
  server HOST [HOST...]   make or renew the broker's server.crt and server.key, for these names and addresses
  client NAME             make or renew a client's certificate and key; a robot's NAME is SITE/ROBOT,
                          its files are SITE@ROBOT.crt and SITE@ROBOT.key
  revoke NAME             take a client's certificate back: renews ca.crl, which the broker reads on SIGHUP
  show                    every certificate with the day it ends

  --dir DIR   where everything lies (default: ./certificates)
  --days N    how long a certificate lives (default 365; the broker's and the robots' alike)
USAGE
}

dir=certificates days=365
fail() { echo "certificates.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --dir) [ $# -ge 2 ] || fail "$1 needs a value"; dir=$2; shift 2 ;;
    --days) [ $# -ge 2 ] || fail "$1 needs a value"; days=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; fail "unknown option $1" ;;
    *) break ;;
  esac
done
[ $# -ge 1 ] || { usage >&2; exit 1; }
command=$1
shift
case $days in '' | *[!0-9-]*) fail "--days must be a number" ;; esac
[ "$command" = init ] || [ -f "$dir/ca.key" ] || fail "$dir has no authority; run: certificates.sh --dir $dir init"

quiet() { openssl "$@" 2>"$dir/.openssl.log" || { cat "$dir/.openssl.log" >&2; fail "openssl $1 failed"; }; }

# The authority's book: what it issued, so that it can take it back.
ca() {
  cat >"$dir/.ca.conf" <<CONF
[ca]
default_ca = site
[site]
database = $dir/index.txt
new_certs_dir = $dir/issued
certificate = $dir/ca.crt
private_key = $dir/ca.key
rand_serial = yes
default_md = sha256
default_crl_days = 3650
unique_subject = no
policy = any
[any]
commonName = supplied
CONF
  quiet ca -batch -config "$dir/.ca.conf" "$@"
}

init() {
  [ ! -e "$dir/ca.key" ] || fail "$dir has an authority already; a new one would make every certificate invalid"
  mkdir -p "$dir/issued"
  : >"$dir/index.txt"
  quiet genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/ca.key"
  quiet req -x509 -new -key "$dir/ca.key" -sha256 -days 3650 -subj "/CN=bintally site authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.crt"
  chmod 644 "$dir/ca.crt"
  renew_crl
}

renew_crl() {
  ca -gencrl -out "$dir/ca.crl.new"
  chmod 644 "$dir/ca.crl.new"
  mv "$dir/ca.crl.new" "$dir/ca.crl"
}

# file_of NAME: a robot's name has a slash, its files have an @ there: SITE@ROBOT.crt.
file_of() { echo "$1" | tr / @; }

# issue FILE NAME EXTENSIONS: a new key every time.
issue() {
  printf '%s\n' "$3" >"$dir/.extensions"
  quiet genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/$1.key.new"
  quiet req -new -key "$dir/$1.key.new" -subj "/CN=$(echo "$2" | sed 's,/,\\/,g')" -out "$dir/.request"
  # Before its first moment and after its last a certificate is refused; an hour of room is for a robot's slow clock.
  ca -notext -startdate "$(stamp -3600)" -enddate "$(stamp $((days * 86400)))" \
    -extfile "$dir/.extensions" -in "$dir/.request" -out "$dir/$1.crt.new"
  chmod 644 "$dir/$1.crt.new"
  mv "$dir/$1.key.new" "$dir/$1.key"
  mv "$dir/$1.crt.new" "$dir/$1.crt"
  echo "$dir/$1.crt $dir/$1.key"
}

stamp() { date -u -d "@$(($(date +%s) + $1))" +%Y%m%d%H%M%SZ; }

server() {
  [ $# -ge 1 ] || fail "server needs the names and addresses that robots connect to"
  names=
  for host in "$@"; do
    case $host in
      *[!A-Za-z0-9.:-]*) fail "not a host: $host" ;;
      *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) kind=IP ;;
      *) kind=DNS ;;
    esac
    names=$names${names:+,}$kind:$host
  done
  issue server "$1" "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=$names"
}

client() {
  check_name "$@"
  issue "$(file_of "$1")" "$1" "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth"
}

check_name() {
  [ $# -eq 1 ] || fail "$command needs one name"
  case $1 in
    ca | server | /* | */ | */*/* | *[!A-Za-z0-9._/-]*) fail "not a client's name: $1 (SITE/ROBOT, or a word)" ;;
  esac
}

revoke() {
  check_name "$@"
  [ -f "$dir/$(file_of "$1").crt" ] || fail "$1 has no certificate"
  ca -revoke "$dir/$(file_of "$1").crt"
  renew_crl
  echo "revoked $1: copy ca.crl to the broker and reload it"
}

show() {
  for file in "$dir"/*.crt; do
    echo "$(basename "$file")  $(openssl x509 -in "$file" -noout -enddate | cut -d= -f2)"
  done
}

case $command in
  init | server | client | revoke | show) "$command" "$@" ;;
  *) usage >&2; fail "unknown command $command" ;;
esac
rm -f "$dir/.request" "$dir/.extensions" "$dir/.ca.conf" "$dir/.openssl.log"

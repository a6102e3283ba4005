#!/bin/sh
# Installs or upgrades the bintally agent. Running it again changes nothing that is already right; configuration, certificates,
# secrets and state are never touched.
#   /opt/bintally/releases/NAME   one environment per release; `current` points to the one that runs
#   /etc/bintally                 agent.toml (an example, written once), tls/, credentials/
#   /var/lib/bintally             bundles and the outbox; belongs to the service
set -eu
umask 022

usage() {
  cat <<'USAGE'
usage: install.sh [--root DIR] [--python PROGRAM] [--wheel FILE] [--requirements FILE] [--wheelhouse DIR]
                  [--jetson | --no-jetson] [--no-start] [--dry-run]

  --root DIR           install under DIR instead of /, without users and without touching systemd: to look at, or for tests
  --python PROGRAM     the Python of the new environment (default python3; 3.10 or newer with its venv module)
  --wheel FILE         a built wheel of bintally (default: this checkout)
  --requirements FILE  pinned packages (default: requirements/edge.txt of this checkout)
  --wheelhouse DIR     take packages from DIR and never from the network
  --jetson             take OpenCV, which has GStreamer there, and TensorRT from the system, and the pins of deploy/jetson.txt
                       (default: on a Jetson)
  --no-start           do not enable and start the service
  --dry-run            say what would be done

Upgrade: run it from the new version; the service restarts on it. Way back: run it from the old version.
USAGE
}

root='' python=python3 wheel='' wheelhouse='' jetson=auto start=yes dry=no
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
source=$(dirname -- "$here")
requirements=$source/requirements/edge.txt

fail() { echo "install.sh: $*" >&2; exit 1; }
needs() { [ "$2" -ge 2 ] || fail "$1 needs a value"; }

while [ $# -gt 0 ]; do
  case $1 in
    --root) needs "$1" $#; root=${2%/}; shift ;;
    --python) needs "$1" $#; python=$2; shift ;;
    --wheel) needs "$1" $#; wheel=$2; shift ;;
    --requirements) needs "$1" $#; requirements=$2; shift ;;
    --wheelhouse) needs "$1" $#; wheelhouse=$2; shift ;;
    --jetson) jetson=yes ;;
    --no-jetson) jetson=no ;;
    --no-start) start=no ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done

say() { echo "$*"; }
run() { if [ "$dry" = yes ]; then echo "would run: $*"; else "$@"; fi; }

opt=$root/opt/bintally etc=$root/etc/bintally units=$root/etc/systemd/system command=$root/usr/local/bin/bintally
# What was current, one release a line, since the service was last restarted here: one of them may still run.
unstarted=$opt/not-restarted

check() {
  [ -n "$root" ] || [ "$dry" = yes ] || [ "$(id -u)" -eq 0 ] || fail "must run as root (sudo sh deploy/install.sh), or with --root DIR"
  [ -f "$requirements" ] || fail "$requirements does not exist; run it from a checkout, or pass --requirements"
  [ -z "$wheel" ] || [ -f "$wheel" ] || fail "$wheel does not exist"
  command -v "$python" >/dev/null || fail "$python was not found; on Debian or Ubuntu: apt install python3 python3-venv"
  "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "$python must be 3.10 or newer, with its venv module; on Debian or Ubuntu: apt install python3-venv"
  [ -n "$root" ] || "$python" -c '
import os, sys
hidden = ("home", "root", "run", "tmp")
sys.exit(any(os.path.realpath(path).split(os.sep)[1] in hidden for path in (sys.executable, sys.base_prefix)))
' || fail "$python lies where the service cannot see it (/home, /root, /run, /tmp); pass --python /usr/bin/python3"
  if [ "$jetson" = auto ]; then
    if [ -e "$root/etc/nv_tegra_release" ]; then jetson=yes; else jetson=no; fi
  fi
  if [ "$jetson" = yes ] && [ -s "$requirements" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' ||
      fail "$python is $("$python" -V), but OpenCV, TensorRT and deploy/jetson.txt are for the Python 3.10 of JetPack 6; pass --python /usr/bin/python3.10"
  fi
  [ -L "$command" ] || [ ! -e "$command" ] ||
    fail "$command is in the way, as \`pip install\` leaves it; sudo python3 -m pip uninstall bintally, or move it away, then run this again"
}

# The name of a release is its content: the same content is never installed twice.
release_name() {
  content=$(
    {
      "$python" -c 'import sys; print(sys.version_info[:3])'
      echo "jetson=$jetson"
      [ "$jetson" = no ] || { cat "$here/jetson.txt"; system_package cv2; system_package tensorrt; }
      cat "$requirements"
      if [ -n "$wheel" ]; then cat "$wheel"; else
        cd "$source" && find bintally.py pyproject.toml bundle calibration demo edge_agent export train -type f \
          ! -name '*.pyc' | LC_ALL=C sort | while IFS= read -r file; do echo "$file"; cat "$file"; done
      fi
    } | sha256sum | cut -c1-12
  )
  version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' "$source/bundle/version.py")
  echo "$version-$content"
}

pip() { run "$release/bin/python" -m pip install --quiet --disable-pip-version-check ${wheelhouse:+--no-index --find-links "$wheelhouse"} "$@"; }

# requirements without what comes from the system or from jetson.txt: a pin and its hashes are one block of lines.
without_opencv() {
  awk '/^[A-Za-z0-9]/ { keep = !/^(numpy|ml-dtypes|opencv-python-headless)==/ } keep' "$requirements"
}

make_release() {
  release=$opt/releases/$1
  if [ -e "$release/.complete" ]; then say "release $1 is installed"; return; fi
  say "installing release $1"
  run rm -rf "$release"
  run mkdir -p "$opt/releases"
  run "$python" -m venv "$release"
  if [ "$jetson" = yes ]; then
    if [ "$dry" = yes ]; then say "would install $requirements without numpy, ml-dtypes and opencv, and deploy/jetson.txt"; else
      without_opencv >"$release/requirements.txt"
      [ ! -s "$release/requirements.txt" ] || pip --require-hashes --no-deps -r "$release/requirements.txt"
      [ ! -s "$requirements" ] || pip --require-hashes --no-deps -r "$here/jetson.txt"
    fi
    link_system_opencv
    link_system_tensorrt
  elif [ -s "$requirements" ]; then
    pip --require-hashes -r "$requirements"
  fi
  if [ -n "$wheel" ]; then pip --no-deps --no-index "$wheel"; else pip --no-deps --no-build-isolation --no-index "$source"; fi
  run sync -f "$release"  # a power cut must not leave the mark without what it stands for
  run touch "$release/.complete"
}

# system_package NAME: where the system's Python has it; nothing where it has not.
system_package() {
  for folder in "$root"/usr/lib/python3*/dist-packages "$root"/usr/local/lib/python3*/dist-packages "$root"/usr/lib/python3*/site-packages; do
    for file in "$folder/$1" "$folder/$1".*.so; do
      if [ -e "$file" ]; then echo "$file"; return; fi
    done
  done
}

# Only cv2 and tensorrt are taken from the system, nothing else of it.
link_from_system() {
  packages=$("$release/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  ln -sfn "$1" "$packages/$(basename "$1")"
}

link_system_tensorrt() {
  if [ "$dry" = yes ]; then say "would link the system's tensorrt into the environment"; return; fi
  found=$(system_package tensorrt)
  if [ -z "$found" ]; then
    say "warning: the system's TensorRT was not found, so counting takes the processor; apt install python3-libnvinfer, then run this again"
    return
  fi
  link_from_system "$found"
  "$release/bin/python" -c 'import tensorrt; print("TensorRT", tensorrt.__version__)' ||
    say "warning: the system's TensorRT at $found does not import here, so counting takes the processor"
}

link_system_opencv() {
  if [ "$dry" = yes ]; then say "would link the system's cv2 into the environment"; return; fi
  found=$(system_package cv2)
  [ -n "$found" ] || fail "the system's OpenCV was not found; on a Jetson: apt install nvidia-opencv (or python3-opencv)"
  link_from_system "$found"
  "$release/bin/python" -c '
import sys, cv2
found = [line.split(":")[1].strip() for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GStreamer:")]
sys.exit(0 if found and found[0].startswith("YES") else f"cv2 {cv2.__version__} at {cv2.__file__} has no GStreamer")
' || fail "the system's OpenCV at $found cannot be used: CSI cameras need one that imports here and has GStreamer"
  say "OpenCV with GStreamer: $found"
}

# Noted before a change, and until a restart has worked: a run that was cut off, or --no-start, must not hide it from the next.
note_change() {
  run mkdir -p "$opt"
  [ "$dry" = yes ] || readlink "$opt/current" >>"$unstarted" || true
}

# install_file FROM TO MODE: only when it differs.
install_file() {
  if [ -e "$2" ] && cmp -s "$1" "$2"; then return; fi
  say "writing ${2#"$root"}"
  note_change
  run mkdir -p "$(dirname "$2")"
  run install -m "$3" "$1" "$2"
}

remove_file() {
  [ -e "$1" ] || return 0
  say "removing ${1#"$root"}"
  note_change
  run rm -f "$1"
}

install_files() {
  install_file "$here/systemd/bintally-agent.service" "$units/bintally-agent.service" 644
  if [ "$jetson" = yes ]; then
    install_file "$here/systemd/jetson.conf" "$units/bintally-agent.service.d/jetson.conf" 644
  else
    remove_file "$units/bintally-agent.service.d/jetson.conf"
  fi
  install_file "$here/systemd/sysusers.conf" "$root/etc/sysusers.d/bintally.conf" 644
  install_file "$here/systemd/tmpfiles.conf" "$root/etc/tmpfiles.d/bintally.conf" 644
  install_file "$here/doctor.sh" "$root/usr/local/sbin/bintally-doctor" 755
  for document in operations.md mqtt.md; do
    [ ! -f "$source/docs/$document" ] || install_file "$source/docs/$document" "$root/usr/local/share/doc/bintally/$document" 644
  done
}

make_user_and_folders() {
  if [ -n "$root" ]; then
    run mkdir -p "$etc/tls" "$etc/credentials" "$root/var/lib/bintally"
    run chmod 750 "$etc" "$etc/tls"
    run chmod 700 "$etc/credentials" "$root/var/lib/bintally"
    return
  fi
  run systemd-sysusers "$root/etc/sysusers.d/bintally.conf"
  run systemd-tmpfiles --create "$root/etc/tmpfiles.d/bintally.conf"
}

first_config() {
  if [ -e "$etc/agent.toml" ]; then say "keeping /etc/bintally/agent.toml"; return; fi
  say "writing an example to /etc/bintally/agent.toml"
  # Under its name only when it is whole and the service may read it: the next run keeps what it finds there.
  if [ -n "$root" ]; then set --; else set -- -g bintally; fi
  run install -m 640 "$@" "$here/agent.example.toml" "$etc/agent.toml.new"
  run mv "$etc/agent.toml.new" "$etc/agent.toml"
}

# The switch is one rename; a power cut leaves the old release or the new one.
activate() {
  target=releases/$1
  if [ "$(readlink "$opt/current" 2>/dev/null)" != "$target" ]; then
    say "current release: $1"
    note_change
    old=$(readlink "$opt/current" 2>/dev/null || true)
    [ -z "$old" ] || run ln -sfn "$old" "$opt/previous"
    run ln -sfn "$target" "$opt/current.new"
    run mv -T "$opt/current.new" "$opt/current"
  fi
  if [ "$(readlink "$command" 2>/dev/null)" != /opt/bintally/current/bin/bintally ]; then
    run mkdir -p "$(dirname "$command")"
    run ln -sfn /opt/bintally/current/bin/bintally "$command"
  fi
}

# The current release stays, the one before, and what may still run.
sweep_releases() {
  for folder in "$opt"/releases/*; do
    case ${folder#"$opt"/} in
      "$target" | "$(readlink "$opt/previous" 2>/dev/null)" | 'releases/*') continue ;;
    esac
    if [ -e "$unstarted" ] && grep -qxF "${folder#"$opt"/}" "$unstarted"; then continue; fi
    say "removing ${folder#"$root"}"
    run rm -rf "$folder"
  done
}

start_service() {
  if [ -n "$root" ]; then return; fi
  run systemctl daemon-reload
  # Whoever starts what does not run starts what is installed now.
  [ "$(systemctl show --property=MainPID --value bintally-agent 2>/dev/null)" != 0 ] || run rm -f "$unstarted"
  [ "$start" = yes ] || return 0
  if cmp -s "$here/agent.example.toml" "$etc/agent.toml"; then
    say "next: edit /etc/bintally/agent.toml, then"
    say "  sudo bintally-doctor"
    say "  sudo systemctl enable --now bintally-agent"
    return
  fi
  run systemctl enable --quiet bintally-agent
  if [ ! -e "$unstarted" ]; then run systemctl start bintally-agent; return; fi
  run systemctl restart bintally-agent
  run rm -f "$unstarted"
}

check
name=$(release_name)
make_release "$name"
install_files
make_user_and_folders
first_config
activate "$name"
start_service
sweep_releases
[ -z "$root" ] || say "to look at: $opt/current/bin/bintally --help"
say "done: $name"

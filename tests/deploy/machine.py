"""A machine of its own under a real systemd: this machine's files under an overlay, booted by systemd-nspawn.

Nothing outside is changed: writes go to the overlay, processes and network have namespaces of their own, and the
control groups lie below the caller's. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

_CGROUPS = Path("/sys/fs/cgroup")
_ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
_TOOLS = ("systemd-nspawn", "unshare", "nsenter", "pgrep", "mosquitto", "mosquitto_sub", "mosquitto_passwd", "runuser")
# What this machine itself would start, and what it may have installed, is not the test's.
_BOOT = """
set -eu
for group in $GROUPS_TO_JOIN; do echo $$ >"$group/cgroup.procs"; done
exec unshare --mount --propagation private /bin/sh -euc '
mount -t overlay overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
cd "$FOLDER/root"
rm -rf etc/systemd/system/*.wants etc/systemd/system/bintally* var/log/journal
rm -rf opt/bintally etc/bintally var/lib/bintally
exec systemd-nspawn --quiet --boot --directory="$FOLDER/root" --register=no --keep-unit --private-network \\
  --tmpfs=/tmp --link-journal=no --console=read-only --capability=CAP_SYS_RESOURCE --machine=robot "$@" \\
  -- --unit=basic.target
' - "$@"
"""


def why_not() -> str | None:
    """What is missing here to boot one; None if nothing is."""
    if os.geteuid():
        return "needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: systemd-container, mosquitto, mosquitto-clients)"
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        return "no overlay file system"
    if subprocess.run(["/usr/bin/python3", "-c", "import ensurepip"], check=False, capture_output=True).returncode:
        return "no python3-venv"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True)
    return "no namespaces" if probe.returncode else None


class Machine:
    """Boots on entry, is gone on exit.

    Args:
        folder: On a file system that can hold an overlay; some hundred megabytes.
        shown: Folders of this machine, by the place where the other one sees them, read-only.
    """

    def __init__(self, folder: Path, shown: Mapping[str, Path]) -> None:
        self._folder = folder
        self._binds = [f"--bind-ro={source}:{place}" for place, source in shown.items()]
        self._groups = _own_groups(f"bintally-machine-{os.getpid()}")
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def __enter__(self) -> Self:
        for name in ("upper", "work", "root"):
            (self._folder / name).mkdir(mode=0o755)
        for group in self._groups:
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty at first
                if (group / name).exists() and not (group / "cgroup.controllers").exists():
                    (group / name).write_text((group.parent / name).read_text(encoding="ascii"), encoding="ascii")
        groups = " ".join(map(str, self._groups))
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _BOOT, "-", *self._binds],
                env={**os.environ, "FOLDER": str(self._folder), "GROUPS_TO_JOIN": groups},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._has_booted, what="the boot")
            self._take_version_1_groups()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self.leader:
            self.run("systemctl", "poweroff", "--force", "--force", check=False)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20)
        for group in self._groups:
            wait_until(partial(_removed, group), what="the end of the machine's processes")
        for name in ("upper", "work"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in it, as its root, outside all services."""
        enter = [
            "nsenter",
            "--target",
            str(self.leader),
            *(f"--{name}" for name in ("mount", "uts", "ipc", "net", "pid")),
        ]
        done = subprocess.run(
            [*enter, "--cgroup", "--", "env", "-i", *_ENVIRONMENT, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def path(self, inside: str) -> Path:
        """Where a file of it is seen from here."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def _has_booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._folder / "console").read_text(encoding="utf-8", errors="replace"))
        children = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        if not children.stdout:
            return False
        self.leader = int(children.stdout.split()[0])
        # nspawn's first child is not yet the machine's systemd.
        name = subprocess.run(["ps", "-o", "comm=", str(self.leader)], capture_output=True, text=True, check=False)
        if name.stdout.strip() != "systemd":
            self.leader = 0
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _take_version_1_groups(self) -> None:
        """nspawn hands over the groups of version 1 read-only; a machine of its own has them all."""
        if (_CGROUPS / "cgroup.controllers").exists():
            return
        for group in self._groups:
            name = group.relative_to(_CGROUPS).parts[0]
            self.run("mount", "-o", "remount,bind,rw", f"/sys/fs/cgroup/{name}")
        self.run("systemctl", "daemon-reexec")


def _removed(group: Path) -> bool:
    """Remove a group with those below it, unless a process has not ended yet."""
    try:
        for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            inner.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True


def _own_groups(name: str) -> list[Path]:
    """A new control group below the caller's, in each hierarchy of version 1; with version 2 alone, below the root."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / name]  # below a group with processes no controller could be used
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        found.append(_CGROUPS / (controllers.removeprefix("name=") or "unified") / path.lstrip("/") / name)
    return [group for group in found if group.parent.is_dir()]

"""The installer and its counterpart, run for real under a root folder of their own."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHELLCHECK = shutil.which("shellcheck")
_FAKE_CV2 = """
__version__ = "4.8.0"
def getBuildInformation():
    return "  Video I/O:\\n    GStreamer:                   {gstreamer}\\n"
"""


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def call(repository: Path, script: str, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(repository / "deploy" / script), "--root", str(root), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def quick_python(folder: Path) -> Path:
    """A Python whose new environments borrow our pip: copying it in takes ten times as long as all the rest."""
    pip = importlib.util.find_spec("pip")
    if pip is None or pip.origin is None:
        pytest.skip("no pip beside the tests")
    real, borrowed = shlex.quote(sys.executable), shlex.quote(str(Path(pip.origin).parent))
    program = folder / "quick-python"
    program.write_text(
        f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {real} "$@"
{real} -m venv --without-pip "$3" && cd "$3"/lib/python3.*/site-packages && ln -s {borrowed} pip
""",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def install(repository: Path, root: Path, wheel: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Without third-party packages: what is tested is the installer, not the network."""
    none = root.parent / "no-packages.txt"
    none.touch()
    chosen = ("--python", str(quick_python(root.parent)), "--wheel", str(wheel), "--requirements", str(none))
    return call(repository, "install.sh", root, *chosen, *options)


def tree(root: Path) -> dict[str, tuple[int, object]]:
    """Mode and content of everything, the insides of environments left out."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[:3] == ("opt", "bintally", "releases") and len(name.parts) > 4:
            continue
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(name)] = (path.lstat().st_mode, content)
    return found


@pytest.mark.soak
def test_install_from_the_checkout_with_its_pins_gives_a_working_command(repository: Path, tmp_path: Path) -> None:
    """Downloads every pinned package."""
    root = tmp_path / "root"
    done = call(repository, "install.sh", root, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    program = root / "opt/bintally/current/bin/bintally"
    shown = subprocess.run([program, "agent", "run", "--help"], capture_output=True, text=True, check=True)
    assert "SIGTERM" in shown.stdout


def test_install_twice_changes_nothing_and_upgrade_keeps_what_is_the_operators(
    repository: Path, tmp_path: Path, wheel: Path
) -> None:
    root = tmp_path / "root"
    dry = install(repository, root, wheel, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would run" in dry.stdout
    assert not root.exists()

    first = install(repository, root, wheel)
    assert first.returncode == 0, first.stderr
    assert f"to look at: {root}/opt/bintally/current/bin/bintally" in first.stdout
    before = tree(root)
    example = (repository / "deploy/agent.example.toml").read_bytes()
    assert before["etc/bintally/agent.toml"][1] == example
    assert before["etc/bintally/agent.toml"][0] & 0o7 == 0
    assert before["etc/bintally/credentials"][0] & 0o77 == 0
    again = install(repository, root, wheel)
    assert again.returncode == 0, again.stderr
    assert tree(root) == before

    # The operator's own: configuration, certificate, bundle, counts, an override of the unit.
    own = {
        "etc/bintally/agent.toml": b"# mine\n",
        "etc/bintally/tls/robot.key": b"key",
        "var/lib/bintally/agent/outbox.db": b"counts",
        "etc/systemd/system/bintally-agent.service.d/override.conf": b"[Service]\nMemoryMax=1G\n",
    }
    for name, content in own.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    cv2 = root / "usr/lib/python3/dist-packages/cv2/__init__.py"
    cv2.parent.mkdir(parents=True)
    cv2.write_text(_FAKE_CV2.format(gstreamer="NO"), encoding="utf-8")
    (root / "etc/nv_tegra_release").write_text("# R36\n", encoding="utf-8")
    refused = install(repository, root, wheel)
    assert refused.returncode != 0
    assert "no GStreamer" in refused.stderr
    assert tree(root)["opt/bintally/current"] == before["opt/bintally/current"]
    cv2.write_text(_FAKE_CV2.format(gstreamer="YES (1.20.3)"), encoding="utf-8")
    upgrade = install(repository, root, wheel)
    assert upgrade.returncode == 0, upgrade.stderr
    after = tree(root)
    assert {name: after[name][1] for name in own} == own
    assert after["opt/bintally/current"] != before["opt/bintally/current"]
    assert after["opt/bintally/previous"] == before["opt/bintally/current"]
    assert "etc/systemd/system/bintally-agent.service.d/jetson.conf" in after
    where = subprocess.run(
        [
            str(root / "opt/bintally/current/bin/python"),
            "-c",
            "import cv2, bundle.version; print(cv2.__file__)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).resolve() == cv2.resolve()

    assert call(repository, "uninstall.sh", root, "--dry-run").returncode == 0
    assert tree(root) == after
    gone = call(repository, "uninstall.sh", root)
    assert gone.returncode == 0, gone.stderr
    left = tree(root)
    assert {name: left[name][1] for name in own} == own
    assert not [name for name in left if name.startswith("opt/bintally") or name.endswith("agent.service")]
    assert call(repository, "uninstall.sh", root, "--purge").returncode == 0
    left = tree(root)
    assert not [name for name in left if "bintally" in name and "override" not in name and not name.endswith(".d")]


def test_install_replaces_a_link_to_another_command_and_stops_before_a_file(
    repository: Path, tmp_path: Path, wheel: Path
) -> None:
    root = tmp_path / "root"
    command = root / "usr/local/bin/bintally"
    command.parent.mkdir(parents=True)
    command.write_text("#!/usr/bin/python3\n", encoding="ascii")  # as `pip install .` leaves it
    before = tree(root)
    refused = install(repository, root, wheel)
    assert refused.returncode != 0
    assert f"{command} is in the way" in refused.stderr
    assert "pip uninstall bintally" in refused.stderr
    assert tree(root) == before
    command.unlink()
    command.symlink_to("/home/engineer/.venv/bin/bintally")
    done = install(repository, root, wheel)
    assert done.returncode == 0, done.stderr
    assert command.readlink() == Path("/opt/bintally/current/bin/bintally")


def test_install_on_a_jetson_with_another_python_than_its_pins_says_so(repository: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    pretend = "import sys; sys.version_info = (3, 12, 3, 'final', 0); exec(sys.argv[1])"
    python.write_text(
        f"""#!/bin/sh
if [ "$1" = -V ]; then echo Python 3.12.3; exit; fi
exec {shlex.quote(sys.executable)} -c {shlex.quote(pretend)} "$2"
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    refused = call(repository, "install.sh", tmp_path / "root", "--jetson", "--python", str(python))
    assert refused.returncode != 0
    assert "Python 3.12.3" in refused.stderr
    assert "Python 3.10 of JetPack 6" in refused.stderr
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_script_with_an_unknown_option_does_nothing(repository: Path, tmp_path: Path, script: str) -> None:
    done = call(repository, script, tmp_path / "root", "--purgee")
    assert done.returncode != 0
    assert "unknown option --purgee" in done.stderr
    assert not (tmp_path / "root").exists()


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck")
def test_scripts_shellcheck_finds_nothing(repository: Path) -> None:
    assert SHELLCHECK is not None
    scripts = [str(path) for path in sorted((repository / "deploy").rglob("*.sh"))]
    assert len(scripts) >= 2
    done = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_release_is_another_one_with_other_pins_for_a_jetson(repository: Path, tmp_path: Path, wheel: Path) -> None:
    shutil.copytree(repository / "deploy", tmp_path / "deploy")
    (tmp_path / "bundle").mkdir()
    shutil.copy(repository / "bundle/version.py", tmp_path / "bundle")

    def name(*options: str) -> str:
        done = install(tmp_path, tmp_path / "root", wheel, "--dry-run", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    names = [name(), name("--jetson")]
    with (tmp_path / "deploy/jetson.txt").open("a", encoding="utf-8") as pins:
        pins.write("# another\n")
    assert name() == names[0]
    assert len({*names, name("--jetson")}) == 3


def test_jetson_gets_the_tensorrt_of_its_system_as_soon_as_it_is_there(
    repository: Path, tmp_path: Path, wheel: Path
) -> None:
    root = tmp_path / "root"
    packages = root / "usr/lib/python3.10/dist-packages"
    for name, text in (("cv2", _FAKE_CV2.format(gstreamer="YES")), ("tensorrt", '__version__ = "10.3.0"\n')):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(text, encoding="utf-8")
    (packages / "tensorrt").rename(packages / "later")
    without = install(repository, root, wheel, "--jetson")
    assert without.returncode == 0, without.stderr
    assert "TensorRT was not found" in without.stdout
    (packages / "later").rename(packages / "tensorrt")
    found = install(repository, root, wheel, "--jetson")
    assert found.returncode == 0, found.stderr
    assert "TensorRT 10.3.0" in found.stdout
    subprocess.run([str(root / "opt/bintally/current/bin/python"), "-c", "import tensorrt"], check=True)


def test_upgrades_without_a_restart_keep_every_release_that_may_still_run(
    repository: Path, tmp_path: Path, wheel: Path
) -> None:
    root = tmp_path / "root"
    current = root / "opt/bintally/current"
    seen = []
    for number in range(3):
        (tmp_path / "pins.txt").write_text(f"# {number}\n", encoding="utf-8")
        done = install(repository, root, wheel, "--requirements", str(tmp_path / "pins.txt"))
        assert done.returncode == 0, done.stderr
        seen.append(current.resolve())
    assert len(set(seen)) == 3
    assert all((folder / "bin/bintally").exists() for folder in seen)
    (root / "opt/bintally/not-restarted").unlink()  # as after a restart
    assert install(repository, root, wheel, "--requirements", str(tmp_path / "pins.txt")).returncode == 0
    assert {folder for folder in seen if folder.exists()} == set(seen[1:])


def test_pins_hold_what_commands_need_also_beside_the_numpy_of_a_jetson(repository: Path) -> None:
    def pins(name: str) -> dict[str, str]:
        text = (repository / name).read_text(encoding="utf-8")
        return dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", text, re.MULTILINE))

    robot, jetson = pins("requirements/edge.txt"), pins("deploy/jetson.txt")
    assert {"onnx", "onnxruntime", "paho-mqtt"} <= set(robot)  # onnx: `recalibrate` with ranges, its default
    assert jetson["numpy"].startswith("1.")
    assert jetson["cuda-python"].startswith("12.")  # JetPack 6
    script = (repository / "deploy/install.sh").read_text(encoding="utf-8")
    replaced = re.search(r"!/\^\((\S+)\)==/", script)
    assert replaced is not None
    assert set(replaced[1].split("|")) == {*(set(robot) & set(jetson)), "opencv-python-headless"}

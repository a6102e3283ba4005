"""The walls of the house: who may import whom, held in fresh interpreters, and the one command's lazy verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_EDGE_PACKAGES = ("bundle", "edge_agent")
_NEVER_ON_A_ROBOT = ("torch", "torchvision", "onnx", "rich", "pyarrow", "moto", "amqtt", "train", "export", "demo")


def _fresh(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", _EDGE_PACKAGES)
def test_edge_package_every_module_imports_without_cloud_packages(package: str, repository: Path) -> None:
    code = f"""
import importlib, json, pkgutil, sys
import {package}
names = [m.name for m in pkgutil.walk_packages({package}.__path__, "{package}.")]
for name in names:
    importlib.import_module(name)
roots = {{name.split(".")[0] for name in sys.modules}}
print(json.dumps({{"modules": len(names), "reached": sorted(roots & set({_NEVER_ON_A_ROBOT!r}))}}))
"""
    result = json.loads(_fresh(code, repository))
    assert result["modules"] > 3
    assert result["reached"] == []


def test_edge_packages_import_with_the_edge_requirements_alone(repository: Path) -> None:
    code = f"""
import importlib, importlib.metadata, pkgutil, re, sys
pinned = {{re.sub("[-_.]+", "-", line.split("==")[0].strip().lower())
          for line in open("requirements/edge.txt") if "==" in line and line[0].isalpha()}}
owners = importlib.metadata.packages_distributions()

class OnlyEdge:
    def find_spec(self, name, path=None, target=None):
        dists = [re.sub("[-_.]+", "-", dist.lower()) for dist in owners.get(name.split(".")[0], [])]
        if name.split(".")[0] in {_NEVER_ON_A_ROBOT!r} or (dists and not pinned & set(dists) and dists != ["bintally"]):
            raise ModuleNotFoundError(f"{{name}} is not on a robot", name=name)
        return None

sys.meta_path.insert(0, OnlyEdge())
count = 0
for package in {_EDGE_PACKAGES!r}:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        importlib.import_module(module.name)
        count += 1
import bintally
bintally.cli(["agent", "run", "--help"], standalone_mode=False)
print(len(pinned) > 10 and count > 30)
"""
    assert _fresh(code, repository).strip().endswith("True")


def test_help_of_the_one_command_imports_no_verb(repository: Path) -> None:
    code = """
import sys, bintally
bintally.cli(["--help"], standalone_mode=False)
print("reached:", sorted({name.split(".")[0] for name in sys.modules} & {"numpy", "cv2", "torch", "paho", "boto3"}))
"""
    assert "reached: []" in _fresh(code, repository)


def test_unknown_verb_suggests_the_nearest(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bintally", "bundel"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Did you mean bundle?" in done.stderr


def _complete(words: str, cwd: Path, *, without: str = "") -> subprocess.CompletedProcess[str]:
    code = f"""
import sys
if {without!r}:
    sys.modules[{without!r}] = None
import bintally
bintally.cli(prog_name="bintally")
"""
    environment = os.environ | {"_BINTALLY_COMPLETE": "bash_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_completion_of_verbs_needs_no_extra(repository: Path) -> None:
    done = _complete("bintally ", repository, without="pyarrow")
    assert done.stderr == ""
    assert "plain,data" in done.stdout
    assert "plain,agent" in done.stdout


def test_completion_within_a_verb_whose_extra_is_missing_is_silent(repository: Path) -> None:
    done = _complete("bintally train ", repository, without="train")
    assert done.stderr == ""
    assert "Traceback" not in done.stdout


def test_verb_whose_extra_is_missing_says_how_to_install_it(repository: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; import bintally; bintally.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "pip install '.[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_path_that_the_system_refuses_is_one_message(repository: Path, tiny_bundle: Path) -> None:
    command = ["bundle", "install", str(tiny_bundle), "--store", str(tiny_bundle / "card.md" / "store"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bintally", *command], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 74
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 74

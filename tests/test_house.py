"""The walls of the house: who may import whom, held in fresh interpreters, and the one command's lazy verbs."""

from __future__ import annotations

import json
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


def test_edge_package_with_torch_made_unimportable_still_runs_the_agent_command(repository: Path) -> None:
    code = f"""
import sys
for name in {_NEVER_ON_A_ROBOT[:7]!r}:
    sys.modules[name] = None  # any import of it now raises
import bintally
bintally.cli(["agent", "run", "--help"], standalone_mode=False)
"""
    assert "--config" in _fresh(code, repository)


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

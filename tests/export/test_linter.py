"""Each rule of the linter, with a graph that breaks it and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from calibration.int8.quantize import Recipe, prepare, quantize
from export.linter import CPU_RULES, RULES, lint
from tests.export.broken_graphs import BROKEN, CPU_BROKEN
from tests.simulators.networks import images, residual_network

if TYPE_CHECKING:
    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared
    from tests.export.broken_graphs import Damage


@pytest.fixture(scope="module")
def looked_at() -> Prepared:
    return prepare(residual_network(), images())


@pytest.fixture(scope="module")
def good(looked_at: Prepared) -> bytes:
    return quantize(looked_at, Recipe("tensorrt")).model


@pytest.fixture(scope="module")
def good_cpu(looked_at: Prepared) -> bytes:
    return quantize(looked_at, Recipe("cpu")).model


def test_lint_good_graph_has_no_findings(good: bytes) -> None:
    assert lint(good, "tensorrt", max_opset=17) == []


@pytest.mark.parametrize(("rule", "damage"), BROKEN, ids=[damage.__name__[1:] for _, damage in BROKEN])
def test_lint_broken_graph_breaks_exactly_that_rule(good: bytes, rule: str, damage: Damage) -> None:
    model = onnx.load_model_from_string(good)
    damage(model)
    findings = lint(model.SerializeToString(), "tensorrt", max_opset=17)
    assert {finding.rule for finding in findings} == {rule}
    assert all(finding.node and finding.message for finding in findings)


@pytest.mark.parametrize(("rule", "damage"), CPU_BROKEN, ids=[damage.__name__[1:] for _, damage in CPU_BROKEN])
def test_lint_broken_graph_for_processors_breaks_exactly_that_rule(good_cpu: bytes, rule: str, damage: Damage) -> None:
    assert lint(good_cpu, "cpu", max_opset=17) == []
    model = onnx.load_model_from_string(good_cpu)
    damage(model)
    assert {finding.rule for finding in lint(model.SerializeToString(), "cpu", max_opset=17)} == {rule}


def test_lint_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)
    assert {rule for rule, _ in CPU_BROKEN} == set(CPU_RULES)


def test_lint_the_file_for_processors_is_no_file_for_tensorrt(good_cpu: bytes) -> None:
    broken = {finding.rule for finding in lint(good_cpu, "tensorrt", max_opset=17)}
    assert broken == {"zero-points", "biases", "pairs", "residuals"}


@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
@pytest.mark.parametrize("left", [{"stem"}, {"b3"}, {"a2"}, {"short"}, {"a2", "short"}, {"b1", "b2"}])
def test_lint_mixed_precision_keeps_every_rule(left: set[str], dialect: Dialect, looked_at: Prepared) -> None:
    model = quantize(looked_at, Recipe(dialect, float_convolutions=frozenset(left))).model
    assert lint(model, dialect, max_opset=17) == []

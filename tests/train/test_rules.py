"""Every rule on a stream that must fire it and on one that must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from train import rules, rules_speed
from train.watch import check_stream

if TYPE_CHECKING:
    from train.finding import Record


def _losses(*values: float) -> list[Record]:
    return [{"step": step, "loss": value} for step, value in enumerate(values)]


def _epochs(**columns: list[float]) -> list[Record]:
    rows = zip(*columns.values(), strict=True)
    return [{"kind": "epoch", "step": step, **dict(zip(columns, row, strict=True))} for step, row in enumerate(rows)]


def _probe(step: int = 1, **parts: Any) -> Record:  # noqa: ANN401 - parts of a probe record
    return {"kind": "probe", "step": step, "gradients": {}, "activations": {}, "nonfinite": [], **parts}


def _gradient(mean_abs: float, spread: float = 1.0) -> dict[str, float]:
    return {"mean_abs": mean_abs, "p5": -spread / 2, "p95": spread / 2}


def test_loss_not_decreasing_flat_loss_fires_every_num_steps() -> None:
    found = rules.loss_not_decreasing(_losses(*[1.0] * 31), num_steps=10)
    assert [finding.step for finding in found] == [10, 20, 30]


def test_loss_not_decreasing_looks_at_the_newest_record_old_enough() -> None:
    # The guide's example: saved every 3 steps, num_steps 10: step 21 is compared with step 9, and 33 is next.
    stream = [{"step": step, "loss": 1.0} for step in range(0, 40, 3)]
    found = rules.loss_not_decreasing(stream, num_steps=10)
    assert [finding.step for finding in found] == [12, 24, 36]
    assert "in 12 steps" in found[0].message


def test_loss_not_decreasing_falling_loss_is_silent() -> None:
    assert rules.loss_not_decreasing(_losses(*[1.0 / (1 + step) for step in range(40)])) == []


@pytest.mark.parametrize(("last", "fires"), [(1.04, False), (1.06, True), (0.9995, True), (0.99, False)])
def test_loss_not_decreasing_tolerates_a_small_rise(last: float, *, fires: bool) -> None:
    assert bool(rules.loss_not_decreasing(_losses(*[1.0] * 10, last))) == fires


def test_vanishing_gradient_checks_every_tensor_not_the_first() -> None:
    probe = _probe(gradients={"first": _gradient(0.1), "second": _gradient(1e-9)})
    (found,) = rules.vanishing_gradient([probe])
    assert "second" in found.message
    assert rules.vanishing_gradient([_probe(gradients={"first": _gradient(1e-6)})]) == []


def test_exploding_tensor_asks_to_stop() -> None:
    (found,) = rules.exploding_tensor([_probe(), _probe(7, nonfinite=["fc.weight"])])
    assert (found.step, found.severity) == (7, "stop")
    assert "fc.weight" in found.message


def test_overfit_fires_after_patience_in_a_row() -> None:
    epochs = _epochs(probe_loss=[1.0, 1.0, 1.0, 1.0], loss=[1.2, 1.05, 1.2, 1.2])
    assert [finding.step for finding in rules.overfit(epochs, patience=2)] == [3]


def test_overfit_without_probe_loss_is_silent() -> None:
    assert rules.overfit(_epochs(train_loss=[0.1, 0.1], loss=[5.0, 5.0])) == []


def test_overtraining_training_loss_warns_and_evaluation_loss_stops() -> None:
    epochs = _epochs(train_loss=[1.0] * 12, loss=[1.0] * 12)
    assert [(finding.step, finding.severity) for finding in rules.overtraining(epochs)] == [(5, "warn"), (10, "stop")]


def test_overtraining_improvement_resets_the_patience() -> None:
    falling = [1.0 - 0.02 * step for step in range(12)]
    assert rules.overtraining(_epochs(train_loss=falling, loss=falling)) == []


@pytest.mark.parametrize(
    ("probes", "losses", "word"),
    [
        ([_probe(activations={"a": {"variance_in": 1.0}, "b": {"variance_in": 20.0}})], [], "variance"),
        ([_probe(gradients={"fc": _gradient(1.0, spread=1e-5)})], [], "gradient of fc"),
        ([], _losses(*[2.0] * 7), "did not fall"),
    ],
)
def test_poor_weight_initialization_each_sign_fires(probes: list[Record], losses: list[Record], word: str) -> None:
    (found,) = rules.poor_weight_initialization(probes, losses)
    assert word in found.message


def test_poor_weight_initialization_healthy_or_late_is_silent() -> None:
    healthy = _probe(activations={"a": {"variance_in": 1.0}}, gradients={"fc": _gradient(0.1)})
    late = _probe(11, gradients={"fc": _gradient(1.0, spread=1e-5)})
    assert rules.poor_weight_initialization([healthy, late], _losses(3, 2, 1)) == []


@pytest.mark.parametrize(("rule", "key"), [(rules.dead_relu, "activity"), (rules.saturated, "unsaturated")])
def test_quiet_layers_more_than_half_the_units_fires(rule: Any, key: str) -> None:  # noqa: ANN401 - either rule
    assert rule([_probe(activations={"a": {key: [0.0, 0.005, 0.5, 0.5]}})]) == []
    (found,) = rule([_probe(activations={"a": {key: [0.0, 0.005, 0.009, 0.5]}, "b": {"variance_in": 1.0}})])
    assert "75 % of the units of a" in found.message


def test_class_imbalance_ratio_and_misses_fire_separately() -> None:
    support = {"1": 40, "2": 600}
    assert len(rules.class_imbalance(support)) == 1
    assert len(rules.class_imbalance({"1": 300, "2": 300}, {"1": 0.71, "2": 0.69})) == 1
    assert rules.class_imbalance({"1": 1, "2": 400}) == []  # fewer than 500 samples say nothing


def test_stalled_counts_from_the_last_record() -> None:
    records = [{"step": 3, "at_s": 100.0}]
    assert rules.stalled(records, now_s=1900.0) == []
    (found,) = rules.stalled(records, now_s=1901.0)
    assert (found.step, found.severity) == (3, "stop")


def _system(count: int, **values: float) -> list[Record]:
    return [{"kind": "system", "step": step, **values} for step in range(count)]


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        (_system(500, gpu=50.0), "under-used"),
        (_system(470, gpu=90.0) + _system(30, gpu=0.0), "fluctuates"),
        (_system(500, gpu=90.0), None),
        (_system(499, gpu=0.0), None),
    ],
)
def test_low_gpu_utilization_under_use_and_fluctuation(samples: list[Record], word: str | None) -> None:
    found = rules_speed.low_gpu_utilization(samples, patience=0)
    assert len(found) == (0 if word is None else 1)
    assert all(word is not None and word in finding.message for finding in found)


def test_low_gpu_utilization_ignores_the_start() -> None:
    assert rules_speed.low_gpu_utilization(_system(1000, gpu=0.0) + _system(500, gpu=95.0)) == []


@pytest.mark.parametrize(
    ("rule", "key", "busy"),
    [(rules_speed.cpu_bottleneck, "cpu", 95.0), (rules_speed.io_bottleneck, "io_wait", 60.0)],
)
def test_bottleneck_needs_both_an_idle_gpu_and_a_busy_host(rule: Any, key: str, busy: float) -> None:  # noqa: ANN401
    assert len(rule(_system(60, gpu=5.0, **{key: busy}) + _system(40, gpu=90.0, **{key: busy}), patience=0)) == 1
    assert rule(_system(40, gpu=5.0, **{key: busy}) + _system(60, gpu=90.0, **{key: busy}), patience=0) == []
    assert rule(_system(100, **{key: busy}), patience=0) == []  # no accelerator, no bottleneck before it


def test_step_outlier_needs_more_than_ten() -> None:
    def steps(slow: int) -> list[Record]:
        return [{"step": step, "step_s": 5.0 if step >= 1000 - slow else 1.0 + step % 2 / 100} for step in range(1000)]

    assert rules_speed.step_outlier(steps(10)) == []
    (found,) = rules_speed.step_outlier(steps(11))
    assert found.message.startswith("11 steps")


def test_verdict_names_what_the_step_waits_for() -> None:
    records = [{"data_s": 0.61, "step_s": 1.0}]
    assert rules_speed.verdict(records) == "decode-bound: 61% of step time is waiting for photos"
    assert rules_speed.verdict([{"data_s": 0.0, "step_s": 1.0}]).startswith("compute-bound")
    assert rules_speed.verdict([]) == "no steps were recorded"


def test_check_stream_orders_findings_by_step() -> None:
    stream = [
        _probe(9, nonfinite=["a"]),
        _probe(2, nonfinite=["b"]),
        *_epochs(train_loss=[1.0] * 7, loss=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
    ]
    found = check_stream(stream)
    assert [finding.step for finding in found] == sorted(finding.step for finding in found)
    assert {finding.rule for finding in found} >= {"exploding_tensor", "overtraining"}


def test_check_stream_of_a_good_run_is_silent() -> None:
    epochs = _epochs(train_loss=[1.0, 0.8, 0.6], loss=[1.1, 0.9, 0.7], probe_loss=[1.05, 0.85, 0.66])
    steps = [{"kind": "step", "step": step, "loss": 1.0 / (1 + step), "step_s": 0.1} for step in range(50)]
    assert check_stream(steps + epochs) == []


def test_machine_use_is_the_median_of_what_was_sampled() -> None:
    samples = [{"cpu": 90.0, "io_wait": 0.0, "gpu": None}, {"cpu": 98.0, "io_wait": 2.0, "gpu": None}]
    assert rules_speed.machine_use(samples) == "processors 94% busy (median), 1% waiting for the disk"
    assert rules_speed.machine_use([{"cpu": 10.0, "io_wait": 0.0, "gpu": 80}]).endswith("GPU 80%")
    assert rules_speed.machine_use([]) == ""

"""Rules that say when a training goes wrong: pure functions over the stream of a run.

Open equivalents of the built-in rules of a hosted debugger that no longer takes customers, with the defaults of its
guide (AWS developer guide, `debugger-built-in-rules`). Each rule takes the records that concern it, in order, and
returns findings; none reads a clock or a file.

Where the guide is open to reading, this is what we do:
- overfit and overtraining step by evaluation (an epoch of ours), not by update.
- overtraining warns when the training loss stands still and stops when the evaluation loss does.
- vanishing_gradient looks at every tensor; the public sample returns after the first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from train.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from train.finding import Record, Severity


def loss_not_decreasing(
    records: Sequence[Record],
    *,
    num_steps: int = 10,
    diff_percent: float = 0.1,
    increase_threshold_percent: float = 5.0,
) -> list[Finding]:
    """The loss fell by less than `diff_percent` since the newest record at least `num_steps` older.

    Args:
        records: Records with "step" and "loss".
        num_steps: Steps between two looks.
        diff_percent: Least decrease, percent.
        increase_threshold_percent: A rise up to this much is tolerated as noise.

    Returns:
        Findings.
    """
    found: list[Finding] = []
    last_look = -num_steps
    for index, record in enumerate(records):
        step, loss = record["step"], record["loss"]
        before = [old for old in records[:index] if old["step"] <= step - num_steps]
        if not before or step - last_look < num_steps or loss is None or before[-1]["loss"] is None:
            continue
        last_look = step
        old = before[-1]["loss"]
        change = 100 * (old - loss) / abs(old) if old else 0.0
        if -change > increase_threshold_percent or 0 <= change < diff_percent:
            what = f"loss went from {old:.4g} to {loss:.4g} ({-change:+.2f} %) in {step - before[-1]['step']} steps"
            found.append(Finding("loss_not_decreasing", step, "warn", f"{what}; wanted -{diff_percent} % or more"))
    return found


def vanishing_gradient(probes: Sequence[Record], *, threshold: float = 1e-7) -> list[Finding]:
    """Mean absolute gradient of a tensor below `threshold`.

    Args:
        probes: Records with "step" and "gradients": {tensor: {"mean_abs": float, ...}}.
        threshold: Limit.

    Returns:
        One finding per probe, naming the worst tensor.
    """
    found = []
    for probe in probes:
        weak = {name: stats["mean_abs"] for name, stats in probe["gradients"].items() if stats["mean_abs"] < threshold}
        if weak:
            worst = min(weak, key=lambda name: weak[name])
            text = f"{len(weak)} of {len(probe['gradients'])} tensors have a mean |gradient| below {threshold:g}"
            found.append(Finding("vanishing_gradient", probe["step"], "warn", f"{text}; {worst}: {weak[worst]:.2g}"))
    return found


def exploding_tensor(probes: Sequence[Record]) -> list[Finding]:
    """A weight, gradient or statistic that is infinite or not a number.

    Args:
        probes: Records with "step" and "nonfinite": names of such tensors.

    Returns:
        One finding per probe that has any.
    """
    return [
        Finding("exploding_tensor", probe["step"], "stop", f"not finite: {', '.join(probe['nonfinite'][:3])}")
        for probe in probes
        if probe["nonfinite"]
    ]


def overfit(
    epochs: Sequence[Record], *, ratio_threshold: float = 0.1, patience: int = 1, start_step: int = 0
) -> list[Finding]:
    """(evaluation loss - training loss) / training loss above `ratio_threshold` for `patience` evaluations.

    Args:
        epochs: Records with "step", "loss" and "probe_loss", the loss on a sample of training photos without
            augmentation: the loss while training is inflated by augmentation and dropout.
        ratio_threshold: Limit.
        patience: Evaluations in a row.
        start_step: Evaluations before it do not count.

    Returns:
        Findings.
    """
    found, streak = [], 0
    for epoch in epochs:
        learned, judged = epoch.get("probe_loss"), epoch["loss"]
        if learned is None or judged is None or epoch["step"] < start_step:
            continue
        ratio = (judged - learned) / learned if learned else 0.0
        streak = streak + 1 if ratio > ratio_threshold else 0
        if streak >= patience:
            text = f"evaluation loss {judged:.4g} is {ratio:.0%} above training loss {learned:.4g}"
            found.append(Finding("overfit", epoch["step"], "warn", f"{text}; limit {ratio_threshold:.0%}"))
    return found


def overtraining(
    epochs: Sequence[Record], *, patience_train: int = 5, patience_validation: int = 10, delta: float = 0.01
) -> list[Finding]:
    """No improvement by `delta` of the training loss (warn) or the evaluation loss (stop) for its patience.

    Args:
        epochs: Records with "step", "train_loss" and "loss".
        patience_train: Evaluations without improvement of the training loss.
        patience_validation: Likewise of the evaluation loss.
        delta: Least improvement.

    Returns:
        One finding per loss, where it fired first.
    """
    limits: tuple[tuple[str, int, Severity], ...] = (
        ("train_loss", patience_train, "warn"),
        ("loss", patience_validation, "stop"),
    )
    found = []
    for key, patience, severity in limits:
        best, since = float("inf"), 0
        for epoch in epochs:
            value = epoch[key]
            if value is not None and value < best - delta:
                best, since = value, 0
                continue
            since += 1
            if since >= patience:
                text = f"{key} has not improved by {delta:g} on {best:.4g} for {since} evaluations"
                found.append(Finding("overtraining", epoch["step"], severity, text))
                break
    return found


def poor_weight_initialization(
    probes: Sequence[Record],
    losses: Sequence[Record],
    *,
    threshold: float = 10.0,
    distribution_range: float = 0.001,
    patience: int = 5,
    steps: int = 10,
) -> list[Finding]:
    """In the first `steps` updates: uneven activation variances, gradients without spread, or a loss that stands still.

    Args:
        probes: Records with "step", "activations": {layer: {"variance_in": float}} and "gradients" with "p5", "p95".
        losses: Records with "step" and "loss".
        threshold: Largest ratio between the highest and lowest variance of the inputs of activations.
        distribution_range: Least spread (95th less 5th percentile) of any tensor's gradient.
        patience: Losses in a row without decrease.
        steps: How long to look.

    Returns:
        Findings.
    """
    found = []
    for probe in (probe for probe in probes if probe["step"] <= steps):
        variances = [stats["variance_in"] for stats in probe["activations"].values()]
        if variances and max(variances) > threshold * max(min(variances), 1e-30):
            text = f"variance of activation inputs runs from {min(variances):.2g} to {max(variances):.2g}"
            found.append(Finding("poor_weight_initialization", probe["step"], "warn", f"{text}; limit x{threshold:g}"))
        spreads = {name: stats["p95"] - stats["p5"] for name, stats in probe["gradients"].items()}
        if spreads and min(spreads.values()) < distribution_range:
            worst = min(spreads, key=lambda name: spreads[name])
            text = f"gradient of {worst} spreads over {spreads[worst]:.2g}; wanted {distribution_range:g} or more"
            found.append(Finding("poor_weight_initialization", probe["step"], "warn", text))
    early = [record for record in losses if record["step"] <= steps and record["loss"] is not None]
    rises = [new["loss"] >= old["loss"] for old, new in pairwise(early)]
    if len(rises) >= patience and all(rises[-patience:]):
        found.append(
            Finding("poor_weight_initialization", early[-1]["step"], "warn", f"loss did not fall in {patience} looks")
        )
    return found


def dead_relu(
    probes: Sequence[Record], *, threshold_inactivity: float = 1.0, threshold_layer: float = 50.0
) -> list[Finding]:
    """More than `threshold_layer` percent of a layer's units are active on less than `threshold_inactivity` percent.

    Args:
        probes: Records with "activations": {layer: {"activity": shares 0..1 per unit}}.
        threshold_inactivity: Percent of inputs below which a unit counts as dead.
        threshold_layer: Percent of units.

    Returns:
        One finding per probe, naming the worst layer.
    """
    return _quiet_layers(
        "dead_relu", "activity", probes, threshold_inactivity=threshold_inactivity, threshold_layer=threshold_layer
    )


def saturated(
    probes: Sequence[Record], *, threshold_inactivity: float = 1.0, threshold_layer: float = 50.0
) -> list[Finding]:
    """More than `threshold_layer` percent of a bounded layer's units are nearly always at one of its ends.

    Args:
        probes: Records with "activations": {layer: {"unsaturated": shares 0..1 per unit}}; layers that have bounds.
        threshold_inactivity: Percent of inputs within the bounds below which a unit counts as saturated.
        threshold_layer: Percent of units.

    Returns:
        One finding per probe, naming the worst layer.
    """
    return _quiet_layers(
        "saturated", "unsaturated", probes, threshold_inactivity=threshold_inactivity, threshold_layer=threshold_layer
    )


def class_imbalance(
    support: Mapping[str, int],
    misses: Mapping[str, float] | None = None,
    *,
    step: int = 0,
    threshold_imbalance: float = 10.0,
    threshold_misprediction: float = 0.7,
    samples: int = 500,
) -> list[Finding]:
    """The largest class is over ten times the smallest, or one class is answered wrongly over 70 % of the time.

    Args:
        support: Photos per class.
        misses: Share of wrong answers per class, if already known.
        step: Where to report it.
        threshold_imbalance: Largest ratio between classes.
        threshold_misprediction: Largest share of wrong answers.
        samples: Below this many photos nothing is said.

    Returns:
        Findings.
    """
    if sum(support.values()) < samples:
        return []
    found = []
    largest, smallest = (pick(support, key=lambda name: support[name]) for pick in (max, min))
    if support[largest] > threshold_imbalance * support[smallest]:
        text = f"class {largest} has {support[largest]} photos, class {smallest} has {support[smallest]}"
        found.append(Finding("class_imbalance", step, "warn", f"{text}; limit x{threshold_imbalance:g}"))
    for name, share in (misses or {}).items():
        if share > threshold_misprediction:
            text = f"class {name} is answered wrongly on {share:.0%} of its photos; limit {threshold_misprediction:.0%}"
            found.append(Finding("class_imbalance", step, "warn", text))
    return found


def stalled(records: Sequence[Record], *, now_s: float, limit_s: float = 1800.0) -> list[Finding]:
    """No new record for `limit_s` seconds.

    For whoever watches a run from outside, as `check_stream` does not: a run that hangs cannot say so. Lines of
    metrics.jsonl carry no time; the watcher stamps them when they appear.

    Args:
        records: Records with "step" and "at_s", seconds on the watcher's clock.
        now_s: The same clock now.
        limit_s: Limit, seconds.

    Returns:
        At most one finding.
    """
    last: Record = records[-1] if records else {"step": 0, "at_s": 0.0}
    silent = now_s - last["at_s"]
    if silent <= limit_s:
        return []
    return [Finding("stalled", last["step"], "stop", f"nothing was recorded for {silent:.0f} s; limit {limit_s:.0f} s")]


def _quiet_layers(
    rule: str, key: str, probes: Sequence[Record], *, threshold_inactivity: float, threshold_layer: float
) -> list[Finding]:
    found = []
    for probe in probes:
        quiet = {
            layer: _percent_below(np.asarray(stats[key], dtype=np.float64), threshold_inactivity / 100)
            for layer, stats in probe["activations"].items()
            if key in stats
        }
        worst = max(quiet, key=lambda layer: quiet[layer], default=None)
        if worst is not None and quiet[worst] > threshold_layer:
            text = f"{quiet[worst]:.0f} % of the units of {worst} act on under {threshold_inactivity:g} % of inputs"
            found.append(Finding(rule, probe["step"], "warn", f"{text}; limit {threshold_layer:g} %"))
    return found


def _percent_below(shares: NDArray[np.float64], limit: float) -> float:
    return 100 * float((shares < limit).mean()) if len(shares) else 0.0

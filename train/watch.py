"""Every rule held against one stream: what the report prints and what may stop a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from train import rules, rules_speed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from train.finding import Finding, Record


def check_stream(records: Sequence[Record]) -> list[Finding]:
    """Hold every rule that the stream has records for against it.

    Args:
        records: All of metrics.jsonl, in order.

    Returns:
        Findings, ordered by step.
    """
    kinds: dict[str, list[Record]] = {"step": [], "epoch": [], "probe": [], "system": []}
    for record in records:
        kinds.setdefault(record["kind"], []).append(record)
    found = [finding for rule in STREAM_RULES for finding in rule(kinds)]
    return sorted(found, key=lambda finding: finding.step)


STREAM_RULES: tuple[Callable[[dict[str, list[Record]]], list[Finding]], ...] = (
    lambda kinds: rules.loss_not_decreasing([epoch | {"loss": epoch["train_loss"]} for epoch in kinds["epoch"]]),
    lambda kinds: rules.overfit(kinds["epoch"]),
    lambda kinds: rules.overtraining(kinds["epoch"]),
    lambda kinds: rules_speed.step_outlier(kinds["step"]),
    lambda kinds: rules.vanishing_gradient(kinds["probe"]),
    lambda kinds: rules.exploding_tensor(kinds["probe"]),
    lambda kinds: rules.dead_relu(kinds["probe"]),
    lambda kinds: rules.saturated(kinds["probe"]),
    lambda kinds: rules.poor_weight_initialization(kinds["probe"], kinds["step"]),
    lambda kinds: rules_speed.low_gpu_utilization(kinds["system"]),
    lambda kinds: rules_speed.cpu_bottleneck(kinds["system"]),
    lambda kinds: rules_speed.io_bottleneck(kinds["system"]),
)
"""Rules that `check_stream` runs; the loss of single steps is too noisy for loss_not_decreasing, so it sees epochs."""

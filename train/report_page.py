"""The look of a run's report: findings in, HTML out. No files are read or written here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from train.data.charts import Frame
from train.data.page import document
from train.reliability import area_under_risk_coverage, reliability_bins, risk_coverage
from train.report_charts import confusion_table, curves, reliability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.finding import Finding, Record
    from train.report import Answered, RunReport

_TILES = (
    ("accuracy", "exact"),
    ("within_1", "within one"),
    ("rmse_posterior_mean", "RMSE of the posterior mean"),
    ("mae", "mean absolute error"),
    ("macro_f1", "macro F1"),
    ("ece", "calibration error"),
)
_SHARES = frozenset({"accuracy", "within_1", "macro_f1", "ece"})
_CURVE_POINTS = 400


def render(found: RunReport) -> str:
    """Make the page.

    Args:
        found: What to show.

    Returns:
        A whole HTML document that needs no other file and no network.
    """
    body = [
        _head(found),
        _rules(found),
        f'<div class="two">{_loss(found)}{_accuracy(found)}</div>',
        f'<div class="two">{_confusion(found)}{_per_class(found)}</div>',
        f'<div class="two">{_reliability(found)}{_risk(found)}</div>',
        _section("Worst mistakes", "Furthest off, the most confident first.", _strip(found.worst)),
        _samples(found),
        f"<footer>configuration <code>{found.config.digest()}</code></footer>",
    ]
    return document(f"{found.name}: training report", body)


def _head(found: RunReport) -> str:
    tiles = "".join(_tile(found, name, words) for name, words in _TILES)
    config = found.config
    text = (
        f"{config.model.name}, {config.model.size} px, {config.epochs} epochs, {found.figures['n']} photos of the "
        f"{config.eval_split!r} split, classes {' '.join(found.classes)}. Intervals are 95 %."
    )
    return f'<h1>{escape(found.name)}</h1><p>{escape(text)}</p><div class="tiles">{tiles}</div>'


def _tile(found: RunReport, name: str, words: str) -> str:
    low, high = found.figures[f"{name}_ci"]
    form = "{:.1%}" if name in _SHARES else "{:.3f}"
    value, low_text, high_text = (form.format(number) for number in (found.figures[name], low, high))
    return f'<div class="tile"><b>{value}</b><span>{escape(words)}<br>{low_text} to {high_text}</span></div>'


def _rules(found: RunReport) -> str:
    rows = "".join(_finding(finding) for finding in found.findings)
    table = (
        f'<table class="left"><tr><th>rule</th><th>step</th><th>what was seen</th></tr>{rows}</table>' if rows else ""
    )
    count = len(found.findings)
    title = f"{count} finding{'s' if count > 1 else ''} of the rules" if rows else "No rule fired"
    bad = any(finding.severity == "stop" for finding in found.findings)
    return _section(title, escape(found.speed), table, "verdict bad" if bad else "verdict")


def _finding(finding: Finding) -> str:
    return f"<tr><td>{escape(finding.rule)}</td><td>{finding.step}</td><td>{escape(finding.message)}</td></tr>"


def _loss(found: RunReport) -> str:
    chart = curves(
        [
            ("training, per step", _points(found.steps, "step", "loss")),
            ("training photos, as they are", _points(found.epochs, "step", "probe_loss")),
            ("evaluation", _points(found.epochs, "step", "loss")),
        ],
        Frame(x_title="updates", y_title="loss"),
    )
    text = (
        "The loss per step carries the augmentation and may cover wider classes. The gap between training photos as "
        "they are and evaluation is what was learned by heart."
    )
    return _section("Loss", text, chart)


def _accuracy(found: RunReport) -> str:
    chart = curves(
        [
            ("exact", _points(found.epochs, "step", "accuracy")),
            ("within one", _points(found.epochs, "step", "within_1")),
            ("RMSE of the posterior mean", _points(found.epochs, "step", "rmse_posterior_mean")),
        ],
        Frame(x_title="updates", y_title="share, items"),
    )
    return _section("Evaluation", "The averaged weights, judged after every epoch.", chart)


def _confusion(found: RunReport) -> str:
    return _section("Confusion", "Rows are the truth.", confusion_table(found.classes, found.figures["confusion"]))


def _per_class(found: RunReport) -> str:
    rows = "".join(
        f"<tr><td><b>{escape(name)}</b></td><td>{row['precision']:.1%}</td><td>{row['recall']:.1%}</td>"
        f"<td>{row['f1']:.1%}</td><td>{row['support']:.0f}</td></tr>"
        for name, row in found.figures["per_class"].items()
    )
    head = "<tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>photos</th></tr>"
    return _section("Per class", "", f"<table>{head}{rows}</table>")


def _reliability(found: RunReport) -> str:
    frame = Frame(x_title="stated confidence", y_title="share of hits")
    text = "On the dashed line the counter is as right as it says. Large points hold many photos."
    return _section("Reliability", text, reliability(reliability_bins(found.judged), frame))


def _risk(found: RunReport) -> str:
    points = _thinned(risk_coverage(found.judged))
    chart = curves([("share of wrong counts", [(100 * x, y) for x, y in points])], Frame(x_title="% of photos kept"))
    area = area_under_risk_coverage(found.judged)
    return _section("Risk and coverage", f"Keeping the most confident first; area {area:.3f}.", chart)


def _samples(found: RunReport) -> str:
    rows = "".join(
        f'<div class="row"><b>{escape(name)}</b>{_strip(answers)}</div>' for name, answers in found.samples.items()
    )
    return _section("Samples per class", "The first photos of each true class, and the answers.", rows)


def _strip(answers: Sequence[Answered]) -> str:
    return f'<div class="strip">{"".join(_figure(answer) for answer in answers)}</div>'


def _figure(answer: Answered) -> str:
    photo = (
        f'<img alt="{escape(answer.id)}" src="{answer.data_uri}">' if answer.data_uri else '<div class="gone"></div>'
    )
    color = "var(--good)" if answer.answer == answer.truth else "var(--bad)"
    said = f'<b style="color:{color}">says {escape(answer.answer)}</b>'
    caption = f"{said}, is {escape(answer.truth)} · {answer.confidence:.0%} · {escape(answer.id)}"
    return f"<figure>{photo}<figcaption>{caption}</figcaption></figure>"


def _points(records: Sequence[Record], x: str, y: str) -> list[tuple[float, float]]:
    return _thinned([(record[x], record[y]) for record in records if record.get(y) is not None])


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = max(1, len(points) // _CURVE_POINTS)
    return [*points[:-1:stride], *points[-1:]]


def _section(title: str, text: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(title)}</h2><p>{text}</p>{content}</section>'

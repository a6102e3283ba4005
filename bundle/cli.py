"""`bintally bundle ...` and `bintally count`: thin commands over this package."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundle.engines.choose import ENGINES, open_engine
from bundle.errors import BundleError, InputError
from bundle.golden import read_golden
from bundle.images import PHOTO_SUFFIXES, read
from bundle.owner import as_owner_of, readable_by_owner_of
from bundle.store import Store
from bundle.verify import Bundle, load_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundle.counter import Counter

FOLDER = click.Path(path_type=Path)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.group()
def bundle() -> None:
    """Inspect, verify, install and roll back bundles.

    A bundle is one immutable folder that a robot can run; docs/bundle-format.md is its normative description.
    """


@bundle.command()
@click.argument("path", type=FOLDER)
@JSON_OPTION
def inspect(path: Path, *, as_json: bool) -> None:
    """Show what a bundle is: classes, models, calibration, metrics, provenance.

    \b
    Example:
      bintally bundle inspect demo/bundle
    """
    found = load_bundle(path)
    if as_json:
        content = {"digest": found.digest, "path": str(path), "manifest": found.manifest.model_dump(mode="json")}
        click.echo(json.dumps(content))
        return
    for key, value in _facts(found):
        click.echo(f"{key:<16}{value}")


def _facts(found: Bundle) -> Iterator[tuple[str, str]]:
    manifest, calibration = found.manifest, found.manifest.calibration
    yield "bundle", found.label
    yield "created", manifest.created.isoformat()
    yield "count classes", " ".join(manifest.count_classes)
    width, height = manifest.preprocessing.size_wh
    yield "input", f"{width}x{height} {manifest.preprocessing.color}, {manifest.preprocessing.resize}"
    for entry in manifest.models:
        size = manifest.files[entry.file].bytes
        yield f"model {entry.role}", f"{entry.file}, {entry.precision}, opset {entry.opset}, {size / 1e6:.2f} MB"
    yield "temperature", f"{calibration.temperature:.3f}, fitted on {calibration.fitted_on}"
    yield "threshold", f"{calibration.threshold:.3f}"
    yield "promise", _promise(found)
    for result in manifest.parity.results:
        yield (
            f"parity {result.role}",
            f"agreement {result.agreement:.1%}, mean TV {result.mean_tv:.4f}, {result.frames} frames",
        )
    for name, value in manifest.metrics.items():
        yield name, f"{value:.4g}"
    yield "trained on", manifest.provenance.dataset
    yield "licence", manifest.licence


def _promise(found: Bundle) -> str:
    promise = found.manifest.calibration.promise
    if promise is None:
        return "none: the calibration frames could not support one"
    return (
        f"at most {promise.risk:.0%} of confident counts wrong, with {promise.confidence:.0%} confidence; "
        f"{promise.coverage:.0%} of visits are confident ({promise.frames} calibration frames)"
    )


@bundle.command()
@click.argument("path", type=FOLDER)
@click.option("--run/--no-run", default=True, help="Also execute every model on the golden frames.")
@JSON_OPTION
def verify(path: Path, *, run: bool, as_json: bool) -> None:
    """Prove that a bundle is whole, and that this machine computes what was published.

    Every file is hashed; then every model that this machine can execute runs on the golden frames.
    Exit code 66: the bundle is not the published one. Exit code 70: a model misses its golden frames here.
    """
    found = load_bundle(path)
    errors = dict(_golden_errors(found)) if run else {}
    if as_json:
        report = {"ok": True, "label": found.label, "digest": found.digest, "files": len(found.manifest.files)}
        report["golden_max_abs_logit"] = errors
        click.echo(json.dumps(report, allow_nan=False))
        return
    click.echo(f"{len(found.manifest.files)} files match their hashes")
    for name, worst in errors.items():
        click.echo(f"{name} reproduces the golden frames (largest logit difference {worst:.2g})")
    click.echo(f"ok {found.label}")


def _golden_errors(found: Bundle) -> Iterator[tuple[str, float]]:
    engines = {"reference": "onnxruntime-fp32", "cpu": "onnxruntime"}
    for entry in found.manifest.models:
        read_golden(found, entry.role)  # also what runs elsewhere, on TensorRT, has to have golden frames that prove it
        if entry.role in engines:
            with open_engine(found, engine=engines[entry.role]) as engine:
                yield engine.name, engine.golden_error or 0.0


@bundle.command()
@click.argument("path", type=FOLDER)
@click.option("--store", required=True, type=FOLDER, help="The robot's bundle store.")
@JSON_OPTION
def install(path: Path, store: Path, *, as_json: bool) -> None:
    """Copy a bundle into a robot's store and make it the current one.

    As root: the store's files belong to the owner of its folder all the same.

    \b
    Example:
      sudo bintally bundle install bundles/first --store /var/lib/bintally/bundles
    """
    robot_store = Store(store)
    with _told_rights(), readable_by_owner_of(store, path) as source, as_owner_of(store):
        active = robot_store.activate(robot_store.install(source).digest)
    _report_active(active, as_json=as_json)


@bundle.command()
@click.option("--store", required=True, type=FOLDER, help="The robot's bundle store.")
@JSON_OPTION
def rollback(store: Path, *, as_json: bool) -> None:
    """Make the previous bundle the current one again."""
    with _told_rights(), as_owner_of(store):
        active = Store(store).rollback()
    _report_active(active, as_json=as_json)


@contextmanager
def _told_rights() -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise BundleError(
            f"{exc.filename} may not be read or written",
            got=f"user {os.geteuid()}",
            fix="Run it with sudo: root may read every folder, and the store's files stay its owner's.",
        ) from exc


def _report_active(active: Bundle, *, as_json: bool) -> None:
    click.echo(json.dumps({"current": active.digest, "label": active.label}) if as_json else f"current {active.label}")


@click.command()
@click.argument("photos", type=FOLDER, nargs=-1, required=True)
@click.option("--bundle", "bundle_path", type=FOLDER, required=True, help="Folder of the bundle.")
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), help="Threads of the runtime.")
@JSON_OPTION
def count(photos: tuple[Path, ...], bundle_path: Path, engine: str, threads: int | None, *, as_json: bool) -> None:
    """Count the items on photos, or on every photo of a folder.

    A photo that cannot be read is named and skipped; the exit code is then 65.

    \b
    Example:
      bintally count shelf.jpg --bundle demo/bundle
      bintally count photos/ --bundle demo/bundle --json | jq .count
    """
    from bundle.counter import Counter

    files = [file for path in photos for file in _photos(path)]
    counter = Counter.open(bundle_path, engine=engine, threads=threads)
    failed = 0
    for file in files:
        try:
            click.echo(_count_line(counter, file, as_json=as_json))
        except InputError as exc:
            failed += 1
            click.echo(f"bintally: {exc}", err=True)
            if as_json:
                click.echo(json.dumps({"photo": str(file), "error": str(exc), "exit_code": exc.exit_code}))
    counter.close()
    if failed:
        raise InputError(f"{failed} of {len(files)} photos could not be counted", fix="Each is named above.")


def _photos(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(child for child in path.iterdir() if child.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise InputError(f"folder {path} holds no photos", expected=".jpg, .jpeg or .png", fix="Name another folder.")
    return found


def _count_line(counter: Counter, file: Path, *, as_json: bool) -> str:
    image = read(file)
    started = time.monotonic()
    result = counter.count([image])
    latency_ms = (time.monotonic() - started) * 1e3
    if not as_json:
        sure = "confident" if result.confident else "unsure"
        return f"{file}  {result.label}  {result.confidence:.0%}  {sure}"
    return json.dumps(
        {
            "photo": str(file),
            "count": result.count,
            "at_least": result.at_least,
            "label": result.label,
            "confidence": result.confidence,
            "confident": result.confident,
            "proven": result.proven,
            "posterior": result.posterior,
            "latency_ms": round(latency_ms, 3),
        }
    )

"""`bintally calibrate camera`, `moved` and `board`: thin commands over `calibration.camera`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from calibration.camera import Calibrated

FOLDER = click.Path(path_type=Path)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_CORNERS = 4
_PAIR = 2


def _parse_corners(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> list[tuple[float, float]] | None:
    del ctx, parameter
    if value is None:
        return None
    try:
        points = [tuple(float(number) for number in pair.split(",")) for pair in value.split()]
    except ValueError as exc:
        raise click.BadParameter('write four corners as "x,y x,y x,y x,y"') from exc
    if len(points) != _CORNERS or any(len(pair) != _PAIR for pair in points):
        raise click.BadParameter('write four corners as "x,y x,y x,y x,y"')
    return [(pair[0], pair[1]) for pair in points]


def _parse_squares(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    del ctx, parameter
    columns, _, rows = value.partition("x")
    if not (columns.isdecimal() and rows.isdecimal()):
        raise click.BadParameter("write squares as COLUMNSxROWS, for example 7x5")
    return int(columns), int(rows)


_BOARD_OPTIONS = (
    click.option("--board", type=click.Choice(["charuco", "chessboard"]), default="charuco", show_default=True),
    click.option("--squares", default="7x5", show_default=True, callback=_parse_squares, help="Columns x rows."),
    click.option(
        "--square-mm", type=click.FloatRange(1, 1000), default=30.0, show_default=True, help="Measured on the print."
    ),
)


def _board_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_BOARD_OPTIONS):
        command = option(command)
    return command


@click.command()
@_board_options
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="PNG file to write.")
def board(*, board: Literal["charuco", "chessboard"], squares: tuple[int, int], square_mm: float, out: Path) -> None:
    """Draw a calibration board for printing.

    Print it at any size on something flat, measure one square, and give that as --square-mm to `calibrate camera`.
    """
    from bundle.durable import write_bytes
    from calibration.boards import BoardSpec

    spec = BoardSpec(board, squares, square_mm)
    write_bytes(out, spec.png())
    click.echo(f"wrote {out}: {squares[0]}x{squares[1]} squares")


@click.command()
@click.argument("views", type=FOLDER)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Profile to write, JSON.")
@click.option("--name", required=True, help="Name of the camera, as in the agent's configuration.")
@click.option("--shots", type=FOLDER, help="Folder of pictures of the board; without it the lens is left alone.")
@_board_options
@click.option(
    "--region",
    type=click.Choice(["frame", "fiducials", "points", "none"]),
    default="frame",
    show_default=True,
    help="How the bin's opening is found.",
)
@click.option(
    "--corners", callback=_parse_corners, help='For --region points: "x,y x,y x,y x,y" in a picture of VIEWS.'
)
@click.option("--white-balance", is_flag=True, help="Make the board's white squares white.")
@click.option("--preview", type=click.Path(path_type=Path, dir_okay=False), help="JPEG to look at before signing off.")
@click.option("--sign-off", help="Your name, once the preview looks right.")
@JSON_OPTION
def camera(  # noqa: PLR0913 - one parameter per option
    views: Path,
    *,
    out: Path,
    name: str,
    shots: Path | None,
    board: Literal["charuco", "chessboard"],
    squares: tuple[int, int],
    square_mm: float,
    region: Literal["frame", "fiducials", "points", "none"],
    corners: list[tuple[float, float]] | None,
    white_balance: bool,
    preview: Path | None,
    sign_off: str | None,
    as_json: bool,
) -> None:
    """Measure a camera: lens, the bin's place, exposure and reference view, from pictures of bins in VIEWS.

    Refuses what is not good enough and says what to shoot. Look at the preview, then run it again with --sign-off.

    \b
    Example:
      bintally calibrate board --out board.png
      bintally calibrate camera views/ --shots shots/ --name camera --out camera.json --preview preview.jpg
    """
    import numpy as np

    from bundle.durable import write_bytes, write_json
    from bundle.images import encode_jpeg
    from calibration.boards import BoardSpec
    from calibration.camera import Request, calibrate_camera, read_photos

    points = None if corners is None else np.array(corners, np.float64)
    found = calibrate_camera(
        None if shots is None else read_photos(shots),
        read_photos(views),
        BoardSpec(board, squares, square_mm),
        Request(name, "points" if corners else region, points, white_balance, sign_off),
        now=datetime.now(timezone.utc).replace(microsecond=0),
    )
    write_json(out, found.profile.model_dump(mode="json"))
    if preview is not None:
        write_bytes(preview, encode_jpeg(found.preview_bgr))
    click.echo(json.dumps(_camera_json(out, found)) if as_json else _camera_text(out, found))


def _camera_json(out: Path, found: Calibrated) -> dict[str, object]:
    content = found.profile.model_dump(mode="json", exclude={"view"})
    fit = found.lens_fit
    lens = None if fit is None else {"focal_error": fit.focal_error, "left_out": fit.left_out}
    return {"profile": str(out), "quality": lens, "unseen_boards": found.unseen_boards, **content}


def _camera_text(out: Path, found: Calibrated) -> str:
    profile, lines = found.profile, []
    if profile.lens is not None and found.lens_fit is not None:
        lens = profile.lens
        lines.append(
            f"lens: focal length {lens.fx:.1f} px (+- {found.lens_fit.focal_error:.2%}), {lens.rms_px:.2f} px"
            f" reprojection error, {lens.shots} shots cover {lens.coverage:.0%}"
        )
        unused = (*found.unseen_boards, *found.lens_fit.left_out)
        lines += [f"not used: {', '.join(unused)}"] if unused else []
    if profile.region is not None:
        corners = "  ".join(f"{x:.1f},{y:.1f}" for x, y in profile.region.corners_px)
        size = "{}x{}".format(*profile.region.size_wh)
        lines.append(f"region by {profile.region.method}: {corners}, rectified to {size}")
    signed = profile.signed_off
    lines.append(
        f"wrote {out}, " + (f"signed off by {signed.by}" if signed else "not signed off yet (--sign-off NAME)")
    )
    return "\n".join(lines)


@click.command()
@click.argument("profile", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("views", type=FOLDER)
@JSON_OPTION
def moved(profile: Path, views: Path, *, as_json: bool) -> None:
    """Tell whether the camera of PROFILE still stands where it stood, from new pictures of bins in VIEWS.

    A dozen pictures with different items make a sound answer. Exit code 1: it has moved.
    """
    from bundle.camera import read_profile
    from calibration.camera import compare_views, read_photos

    answer = compare_views(read_profile(profile), list(read_photos(views).values()))
    motion = answer.motion
    if as_json:
        content = {
            "moved": answer.moved,
            "shift_px": motion.shift_px,
            "turn_deg": motion.turn_deg,
            "growth": motion.growth,
            "corner_px": motion.corner_px,
            "similarity": motion.similarity,
        }
        click.echo(json.dumps(content))
    else:
        click.echo(
            f"{'moved' if answer.moved else 'not moved'}: shift {motion.shift_px[0]:+.1f},{motion.shift_px[1]:+.1f} px,"
            f" turn {motion.turn_deg:+.2f} deg, growth {motion.growth:+.1%}, similarity {motion.similarity:.2f}"
        )
    if answer.moved:
        raise click.exceptions.Exit(1)

"""The disk is filled by somebody else while the agent counts, stays full, and is freed again.

    python -m tests.faults.full_disk --minutes 10

The state folder lies on a small tmpfs (`unshare -rm`, no root needed), broker and log elsewhere. While the disk is full
the agent is killed once and started again. The last line is one JSON object; `lost` must be 0, and `recovered_s` tells
after how long counts flowed again by themselves.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.faults.small_disk import fill, on_small_disk
from tests.faults.world import DeliveryLog, KeepingBroker
from tests.simulators.bundle_factory import make_bundle

_RATE = 20.0
_RECOVERY_S = 300.0
_RESTART_S = 5.0


def full_disk(folder: Path, small: Path, seconds: float) -> dict[str, object]:
    """Count on a disk that is full for so long.

    Args:
        folder: With room.
        small: On the disk that will be full.
        seconds: How long.
    """
    lives: list[AgentProcess] = []
    codes: list[int] = []
    accepted_while_full = 0
    with KeepingBroker(folder / "broker") as broker, DeliveryLog(broker.port, folder / "delivered.jsonl") as log:
        text = config_text(
            bundle=make_bundle(folder / "tiny"),
            source=write_photos(folder / "photos", [n % 6 + 0.5 * (n % 5 == 0) for n in range(50)]),
            state=small / "state",
            port=broker.port,
            camera=f"repeat = true\npause_s = {1 / _RATE:g}",
            rest=f'[uploads]\nfolder = "{folder / "up"}"\n',
        ).replace("[state]\n", "[state]\nmax_bytes = 16777216\n")
        lives.append(AgentProcess.start(folder, text))
        wait_until(lambda: len(lives[0].counts) > 20, what="counts before")
        broker.stop()  # so that the outbox must hold what comes; in order, so that it forgets nothing it acknowledged
        filler = fill(small)
        until_s, killed = time.monotonic() + seconds, False
        while time.monotonic() < until_s:
            time.sleep(0.5)
            if not killed and time.monotonic() > until_s - seconds / 2:
                killed = True
                accepted_while_full = len(lives[0].counts)
                lives[-1].kill()
            if lives[-1].ended:
                _start_again(lives, codes, folder, text)
        filler.unlink()
        broker.start()
        recovered_s = _recovery_s(lives, codes, folder, text)
        codes.append(lives[-1].terminate())
        accepted = {count["event_id"] for life in lives for count in life.counts}
        left = read_outbox(small / "state")
        log.wait_for(accepted - left.counts)
        arrived = log.event_ids()
    return {
        "full_s": seconds,
        "accepted": len(accepted),
        "accepted_by_the_first_life": accepted_while_full,
        "starts": len(lives),
        "exit_codes": codes,
        "recovered_s": recovered_s,
        "queued": len(left.counts),
        "drops": left.drops,
        "lost": max(0, len(accepted - set(arrived) - left.counts) - int(sum(left.drops.values()))),
    }


def _start_again(lives: list[AgentProcess], codes: list[int], folder: Path, text: str) -> None:
    """What systemd does."""
    codes.append(lives[-1].wait())
    time.sleep(_RESTART_S)
    lives.append(AgentProcess.start(folder, text))


def _recovery_s(lives: list[AgentProcess], codes: list[int], folder: Path, text: str) -> float | None:
    """Wait until counts flow again, whichever life they come from.

    Returns:
        Seconds since there was room; None when none came in time.
    """
    began_s, before = time.monotonic(), sum(len(life.counts) for life in lives)
    while sum(len(life.counts) for life in lives) <= before + 5:
        if time.monotonic() > began_s + _RECOVERY_S:
            sys.stderr.write("".join(lives[-1].stderr))
            return None
        if lives[-1].ended:
            _start_again(lives, codes, folder, text)
        time.sleep(0.1)
    return round(time.monotonic() - began_s, 1)


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.argument("small", required=False, type=click.Path(path_type=Path))
def main(minutes: float, small: Path | None) -> None:
    """Count on a full disk and print one JSON object; exit code 1 when a count was lost or none came again."""
    if small is None:
        with tempfile.TemporaryDirectory() as point:
            program = (
                f"from tests.faults.full_disk import main\nimport sys\nmain(['--minutes', '{minutes}', sys.argv[1]])"
            )
            click.echo(on_small_disk(Path(point), program, "size=12m").strip())
        return
    with tempfile.TemporaryDirectory() as folder:
        found = full_disk(Path(folder), small, minutes * 60)
    click.echo(json.dumps(found))
    sys.exit(1 if found["lost"] or found["recovered_s"] is None else 0)


if __name__ == "__main__":
    main()

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from edge_agent.assemble import assemble
from edge_agent.delivery.tls import certificate_end
from edge_agent.health.certificates import CertificateWatch
from tests.edge_agent.running import config_text, load_text, write_photos
from tests.simulators.authority import Authority

if TYPE_CHECKING:
    from pathlib import Path

_DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority") / "certificates")
    made.run("client", "short", days=20)
    made.run("client", "long", days=300)
    return made


def test_watch_tells_two_weeks_ahead_and_takes_the_new_file_within_an_hour(
    authority: Authority, tmp_path: Path
) -> None:
    file, now_s, passed_s = tmp_path / "robot.crt", time.time(), [0.0]
    file.write_bytes((authority.folder / "short.crt").read_bytes())
    end = certificate_end(file)
    watch = CertificateWatch({"key": file}, clock=lambda: passed_s[0], wall_clock=lambda: now_s + passed_s[0])
    assert watch.ending == {}
    passed_s[0] = 7 * _DAY_S
    assert watch.ending == {"key": f"ends on {end:%Y-%m-%d}"}
    passed_s[0] = 21 * _DAY_S
    assert watch.ending == {"key": f"ended on {end:%Y-%m-%d}"}
    os.replace(authority.folder / "long.crt", file)  # noqa: PTH105 - as it is renewed
    assert watch.ending == {"key": f"ended on {end:%Y-%m-%d}"}
    passed_s[0] += 3600
    assert watch.ending == {}


def test_watch_leaves_a_file_that_is_gone_or_no_certificate_to_the_connection(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"no certificate")
    assert CertificateWatch({"a": other, "b": tmp_path / "none"}).ending == {}


def test_agent_whose_certificate_ends_soon_is_degraded_and_says_so_once(
    authority: Authority, tmp_path: Path, tiny_bundle: Path
) -> None:
    authority.run("client", "soon", days=5)
    photos, folder = write_photos(tmp_path / "photos", [1]), authority.folder
    tls = f'[mqtt.tls]\ncert_file = "{folder / "soon.crt"}"\nkey_file = "{folder / "soon.key"}"\n'
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", rest=tls)
    parts = assemble(load_text(tmp_path, text)).parts
    parts.outbox.start()
    for _ in range(3):
        parts.alarms.update_status()
    end = certificate_end(folder / "soon.crt")
    assert parts.alarms.reasons == (f"certificate: mqtt.tls.cert_file ends on {end:%Y-%m-%d}",)
    assert parts.publisher.finish((b"{}",), 1)
    assert parts.outbox.close(10)
    assert parts.outbox.numbers().messages == 1
    parts.release()

"""Keys for the object store from AWS IoT's credential provider: a certificate in, keys for an hour out.

Protocol: GET https://ENDPOINT/role-aliases/ALIAS/credentials with the robot's certificate and the header
x-amzn-iot-thingname (AWS IoT Core developer guide, "Authorizing direct calls to AWS services").

Invariants:
- How long keys live is what their expiry says against the answer's own Date header, then counted on the monotonic
  clock: a robot whose wall clock is wrong renews its keys all the same.
- Old keys are used until they end, while new ones cannot be had. Keys never stand in a log or in an error.
"""

from __future__ import annotations

import http.client
import json
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from bundle.errors import DeliveryError
from edge_agent.config import TlsSection
from edge_agent.delivery import tls
from edge_agent.delivery.allowance import Allowance
from edge_agent.delivery.uploads import UploadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.config import IotSection

_LOG = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 64 << 10
_RENEW_SHARE = 0.25
"""Of their life: keys are renewed when so much of it is left."""
_RETRY_S = 30.0
_SHORTEST_LIFE_S = 1.0
_HTTPS = 443


@dataclass(frozen=True, slots=True)
class Keys:
    """Temporary keys.

    Attributes:
        access_key: Their name.
        secret_key: What requests are signed with.
        token: Sent beside.
        lifetime_s: How long they were good for when they were issued.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    lifetime_s: float


class IotCredentials:
    """Keys that are renewed in time. Belongs to one thread.

    Args:
        settings: Where to ask, and as what.
        thing: Name of the robot in AWS IoT.
        clock: Monotonic seconds.
    """

    def __init__(self, settings: IotSection, thing: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._thing = settings.thing or thing
        self._clock = clock
        self._keys: Keys | None = None
        self._ends_s = self._renew_s = 0.0

    def current(self) -> Keys:
        """Get keys that are good now, the same object until they are renewed.

        Returns:
            The keys.

        Raises:
            UploadError: There are none, and none can be had.
        """
        now_s = self._clock()
        keys = self._keys if now_s < self._ends_s else None
        if keys is not None and now_s < self._renew_s:
            return keys
        try:
            fresh = self._fetch()
        except DeliveryError as exc:
            if keys is None:
                raise
            _LOG.warning("%s; the old keys are good for %.0f s more", exc, self._ends_s - now_s)
            self._renew_s = min(now_s + _RETRY_S, self._ends_s)
            return keys
        self._keys, self._ends_s = fresh, now_s + fresh.lifetime_s
        self._renew_s = now_s + fresh.lifetime_s * (1 - _RENEW_SHARE)
        return fresh

    def refused(self) -> None:
        """Forget the keys: the store does not take them."""
        self._keys, self._ends_s = None, 0.0

    def _fetch(self) -> Keys:
        status, answer, date = self._ask()
        if status != http.HTTPStatus.OK:
            raise UploadError(
                f"the credential endpoint {self._settings.endpoint} refuses",
                got=f"{status}: {_reason(answer)}",
                fix="Check s3.iot.role_alias and s3.iot.thing, and that the certificate's policy allows "
                "iot:AssumeRoleWithCertificate.",
            )
        try:
            keys = _keys(json.loads(answer)["credentials"], date)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UploadError(
                f"the credential endpoint {self._settings.endpoint} answers in an unknown form",
                got=type(exc).__name__,
                fix="Check s3.iot.endpoint: a captive portal may answer in its place.",
            ) from None  # the text of the cause could quote a key
        if keys.lifetime_s < _SHORTEST_LIFE_S:
            raise UploadError(f"the credential endpoint {self._settings.endpoint} gave keys that have ended")
        return keys

    def _ask(self) -> tuple[int, bytes, str | None]:
        """One request on one connection, with the certificate as it lies on the disk now."""
        section = self._settings
        files = TlsSection(ca_file=section.ca_file, cert_file=section.cert_file, key_file=section.key_file)
        host, _, port = section.endpoint.partition(":")
        connection = http.client.HTTPSConnection(
            host, int(port or _HTTPS), timeout=_TIMEOUT_S, context=tls.make_context(files, "[s3.iot]")
        )
        try:
            connection.connect()
            connection.sock = Allowance(_TIMEOUT_S, None).guard(connection.sock)
            path = f"/role-aliases/{section.role_alias}/credentials"
            connection.request("GET", path, headers={"x-amzn-iot-thingname": self._thing})
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER_BYTES), response.getheader("Date")
        except (OSError, http.client.HTTPException) as exc:
            raise UploadError(
                f"the credential endpoint {section.endpoint} cannot be reached",
                got=exc,
                fix="Check s3.iot.endpoint, the network, and the files in [s3.iot].",
            ) from exc
        finally:
            connection.close()


def _keys(found: dict[str, str], date: str | None) -> Keys:
    ends = datetime.fromisoformat(found["expiration"].replace("Z", "+00:00"))
    lifetime_s = (ends - _asked_at(date)).total_seconds()
    return Keys(str(found["accessKeyId"]), str(found["secretAccessKey"]), str(found["sessionToken"]), lifetime_s)


def _asked_at(date: str | None) -> datetime:
    """The server's clock at its answer; ours where it does not say."""
    if date is None:
        return datetime.now(timezone.utc)
    found = parsedate_to_datetime(date)
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def _reason(answer: bytes) -> str:
    """The `message` of a refusal, never the whole answer."""
    try:
        found: Any = json.loads(answer)
    except ValueError:
        return "no reason"
    return str(found.get("message", "no reason"))[:200] if isinstance(found, dict) else "no reason"

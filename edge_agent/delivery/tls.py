"""Certificates: the context of one connection, what a failed handshake means, and when a certificate ends.

A context is built anew for every connection, so that files which were rotated on disk are picked up without a restart.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.config import TlsSection

_MAX_CERTIFICATE_BYTES = 256 << 10
_VERSION = 0xA0
_LONG_FORM = 0x80
_TIME_FORMS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""UTCTime and GeneralizedTime."""

CERTIFICATE_REFUSED = (
    "If the broker asks for certificates: check the end date and the common name of mqtt.tls.cert_file "
    "(bintally agent doctor), and that the broker knows its authority."
)


class _Socket(ssl.SSLSocket):
    """Closed when its handshake fails; paho forgets it then, and a robot that retries for a year would collect them."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of ssl
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def make_context(settings: TlsSection, section: str = "[mqtt.tls]") -> ssl.SSLContext:
    """Read the certificates and build a context that checks the other side's name and authority.

    Args:
        settings: Which files.
        section: Where they are configured, for the error.

    Returns:
        For one connection.

    Raises:
        DeliveryError: A file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _Socket
        if settings.cert_file is not None and settings.key_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ValueError) as exc:
        raise DeliveryError(
            f"the files in {section} cannot be used", got=exc, fix="Check ca_file, cert_file and key_file."
        ) from exc
    return context


def fix_for(exc: Exception) -> str:
    """Say what to do about a connection that could not be opened.

    Args:
        exc: What was raised.

    Returns:
        One sentence.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            "The broker's certificate does not prove that it is mqtt.host: check mqtt.tls.ca_file, that it "
            "names mqtt.host, its end date, and this machine's clock."
        )
    if isinstance(exc, ssl.SSLError):
        return f"Check that mqtt.port speaks TLS. {CERTIFICATE_REFUSED}"
    return "Check mqtt.host, mqtt.port and the network."


def certificate_end(file: Path) -> datetime:
    """Read until when a certificate is valid.

    Args:
        file: PEM; of several certificates the first.

    Returns:
        Its last moment, in UTC.

    Raises:
        ValueError: It is no certificate.
        OSError: It cannot be read.
    """
    with file.open("rb") as handle:
        text = handle.read(_MAX_CERTIFICATE_BYTES).decode("ascii", "replace")
    mark = "-----END CERTIFICATE-----"
    start, end = text.find("-----BEGIN CERTIFICATE-----"), text.find(mark)
    if not 0 <= start < end:
        raise ValueError("no certificate in PEM form")
    der = ssl.PEM_cert_to_DER_cert(text[start : end + len(mark)])
    try:
        certificate = _elements(der)[0][1]
        fields = _elements(_elements(certificate)[0][1])  # of TBSCertificate (RFC 5280, 4.1)
        first = 1 if fields[0][0] == _VERSION else 0
        tag, value = _elements(fields[first + 3][1])[1]  # after serial number, algorithm, issuer: validity
        return datetime.strptime(value.decode("ascii"), _TIME_FORMS[tag]).replace(tzinfo=timezone.utc)
    except (IndexError, KeyError) as exc:
        raise ValueError("not the fields of a certificate") from exc


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Split the inside of a DER sequence into tags and values."""
    found, at = [], 0
    while at < len(content):
        tag, length, at = content[at], content[at + 1], at + 2
        if length & _LONG_FORM:
            octets = length & ~_LONG_FORM
            length, at = int.from_bytes(content[at : at + octets], "big"), at + octets
        found.append((tag, content[at : at + length]))
        at += length
    return found

"""What of a camera's address and of a log may be shown: passwords, keys and queries are taken out."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(:/+).*@", re.DOTALL)
"""Up to the last @, because a password may hold one, or a slash that nobody has encoded."""
_ADDRESS = re.compile(r"\w[\w.+-]*://")
_QUERY = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"]*")
_WHOLE_QUERY = re.compile(r"[?#].*", re.DOTALL)
_PAIR = re.compile(
    r"([\w.-]*(?:user|login|pass|pwd|\bpw|-pw|token|key|secret|auth)[\w.-]*=)(?:\"[^\"]*\"|'[^']*'|[^&;,\s'\"]*)",
    re.IGNORECASE,
)
"""Some recorders want the password in the path, and GStreamer in a property."""
_ANY_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*:/+[^\s'\"]+", re.IGNORECASE)
_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?<=secret_access_key)(\W{1,5})\S+|(?<=session_token)(\W{1,5})\S+|(?<=password)([\"']?\s*[=:]\s*)\S+",
    re.IGNORECASE,
)


def shown_source(source: int | str) -> str:
    """Write a source for people, logs and messages: without user name, password and query of a network camera.

    Args:
        source: As in the configuration, or a text that quotes it.

    Returns:
        The same with `***` in the place of the secret.
    """
    text = str(source)
    if ":/" not in text:
        return text
    is_whole = _ADDRESS.match(text) is not None
    text = _USERINFO.sub(r"\1***@", text)
    text = _WHOLE_QUERY.sub("?***", text) if is_whole and "!" not in text else _QUERY.sub(r"\1?***", text)
    return _PAIR.sub(r"\1***", text)


def masked(text: str) -> str:
    """Take out what looks like a secret.

    Args:
        text: Of a log.

    Returns:
        The same with *** in the place of it.
    """
    text = _ANY_ADDRESS.sub(lambda found: shown_source(found[0]), text)
    return _KEY.sub("***", text)

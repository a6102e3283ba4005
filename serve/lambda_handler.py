"""The service as an AWS Lambda function: `serve.lambda_handler.handler`.

Takes the events of function URLs and of API Gateway (payload version 2 and 1), and direct invocations with "image",
"images" or "url". The bundle's folder stands in BINTALLY_BUNDLE, allowed hosts in BINTALLY_ALLOW_HOSTS (comma between).
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
from pathlib import Path
from typing import Any

from bundle.counter import Counter
from bundle.errors import ConfigError
from serve.batcher import Batcher
from serve.fetch import Fetcher
from serve.service import Answer, Service


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer one event.

    Args:
        event: From Lambda.
        _context: Not needed.

    Returns:
        For HTTP events statusCode, headers and body; for direct invocations the count or error, and status.
    """
    if "requestContext" not in event:
        answer = _service().answer(json.dumps(event).encode(), "application/json")
        return {"status": answer.status, **answer.content}
    body = event.get("body") or ""
    try:
        data = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
    except (binascii.Error, ValueError):
        return _http(Answer(400, {"error": "the body is not base64"}))
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    return _http(_service().answer(data, headers.get("content-type", "")))


def _http(answer: Answer) -> dict[str, Any]:
    return {
        "statusCode": answer.status,
        "headers": {"Content-Type": "application/json", **answer.headers()},
        "body": json.dumps(answer.content),
    }


@functools.cache
def _service() -> Service:
    """Opened with the first event, kept as long as Lambda keeps the process."""
    folder = os.environ.get("BINTALLY_BUNDLE")
    if not folder:
        raise ConfigError("no bundle is named", expected="its folder in BINTALLY_BUNDLE")
    counter = Counter.open(Path(folder))
    hosts = tuple(host.strip() for host in os.environ.get("BINTALLY_ALLOW_HOSTS", "").split(",") if host.strip())
    return Service(counter, Batcher(counter), Fetcher(allowed_hosts=hosts))

"""The service described for programs (OpenAPI 3.1), and a page for people that needs nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from serve.service import MAX_BODY_BYTES, MAX_FRAMES

_REFUSALS = {
    "400": "The request is malformed.",
    "403": "The URL is not on the allow-list, or leads into a private network.",
    "408": "The request took too long to arrive.",
    "413": f"The request is larger than {MAX_BODY_BYTES} bytes.",
    "415": "The request is of a type that is not read.",
    "422": "Not a photo that can be counted: truncated, damaged, or too many pixels in all frames together.",
    "500": "The network failed.",
    "502": "The URL's host did not give the photo.",
    "503": "Too much is waiting. Retry-After says when to come back.",
}


def description(status: dict[str, Any]) -> dict[str, Any]:
    """Describe the service.

    Args:
        status: Of `serve.service.Service.describe`.

    Returns:
        An OpenAPI 3.1 document.
    """
    classes = {name: {"type": "number"} for name in status["classes"]}
    operation = {
        "summary": "Count the items on a photo, or on the frames of one visit",
        "requestBody": {"required": True, "content": _bodies()},
        "responses": {
            "200": {"description": "The count.", "content": {"application/json": {"schema": _count(classes)}}},
            **{code: {"description": words, "content": _error()} for code, words in _REFUSALS.items()},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "bintally", "version": status["bundle"], "description": "Counts the items in a bin."},
        "paths": {
            "/count": {"post": {"operationId": "count", **operation}},
            "/invocations": {"post": {"operationId": "invocations", **operation}},
            "/ping": {"get": {"operationId": "ping", "responses": {"200": {"description": "Photos are counted."}}}},
            "/status": {"get": {"operationId": "status", "responses": {"200": {"description": "What is running."}}}},
        },
    }


def _bodies() -> dict[str, Any]:
    photo = {"schema": {"type": "string", "format": "binary"}}
    text = {"type": "string", "contentEncoding": "base64"}
    kinds = [
        {"type": "object", "properties": {"image": text}, "required": ["image"]},
        {
            "type": "object",
            "properties": {"images": {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_FRAMES}},
            "required": ["images"],
        },
        {"type": "object", "properties": {"url": {"type": "string", "format": "uri"}}, "required": ["url"]},
    ]
    return {"image/jpeg": photo, "image/png": photo, "application/json": {"schema": {"oneOf": kinds}}}


def _count(classes: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "count": {"type": "integer", "description": "Items, or the least number when at_least."},
        "at_least": {"type": "boolean"},
        "label": {"type": "string", "enum": list(classes)},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "confident": {"type": "boolean", "description": "The confidence reaches the bundle's threshold."},
        "proven": {"type": "boolean", "description": "The promise about confident counts is proven for this model."},
        "posterior": {"type": "object", "properties": classes},
        "interval": {"type": ["object", "null"]},
        "bundle": {"type": "string"},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _error() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {"application/json": {"schema": schema}}


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bintally</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #8881; padding: .8rem; overflow: auto; } output { font-size: 2rem; }
</style>
<h1>bintally</h1>
<p>Choose the photo of a bin; it is counted here, and kept nowhere.</p>
<p><input type="file" id="photo" accept="image/jpeg,image/png"> <output id="label" for="photo"></output></p>
<pre id="answer">POST /count        a JPEG or PNG, or JSON: {"image": base64}, {"images": [...]} or {"url": ...}
POST /invocations  the same
GET  /ping         is it alive
GET  /status       what is running
GET  /openapi.json for programs</pre>
<script>
document.getElementById("photo").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const reply = await fetch("count", {method: "POST", headers: {"Content-Type": file.type}, body: file});
  const found = await reply.json();
  document.getElementById("label").textContent = found.label ?? "";
  document.getElementById("answer").textContent = JSON.stringify(found, null, 2);
});
</script>
</html>
"""

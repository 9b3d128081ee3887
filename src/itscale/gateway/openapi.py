"""The OpenAPI document, made from the very types that requests are checked with."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from itscale.gateway.schema import ChatRequest, CompletionRequest, ResponsesRequest
from itscale.version import __version__

__all__ = ["document"]

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ASKED = {
    "/v1/chat/completions": ("chat", ChatRequest),
    "/v1/completions": ("completions", CompletionRequest),
    "/v1/responses": ("responses", ResponsesRequest),
}
_READ = {
    "/v1/models": ("models", "What can be asked for."),
    "/health": ("health", "Whether the process lives."),
    "/ready": ("ready", "Whether it can answer; 503 if not."),
    "/openapi.json": ("openapi", "This document."),
}


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    models = [(kind, "validation") for _, kind in _ASKED.values()]
    _, schemas = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for path, (name, kind) in _ASKED.items():
        body = {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}
        paths[path] = {
            "post": {
                "operationId": name,
                "summary": f"{kind.__doc__}",
                "requestBody": {"required": True, "content": body},
                "responses": _outcomes("The answer, or with `stream` its events.", streams=True),
            }
        }
    for path, (name, summary) in _READ.items():
        paths[path] = {"get": {"operationId": name, "summary": summary, "responses": _outcomes(summary)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "itscale gateway", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _outcomes(said: str, *, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {}}
    if streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {
        "200": {"description": said, "content": content},
        "default": {"description": "A fault, in OpenAI's form.", "content": error},
    }

"""A small API for tests, and copies of it with other values in some places."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tidegate.openapi_diff.result import ApiChange, Effect

BREAKING, UNKNOWN, WARNING, COMPATIBLE = Effect.BREAKING, Effect.UNKNOWN, Effect.WARNING, Effect.COMPATIBLE

API: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "shop", "version": "1"},
    "paths": {
        "/orders/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
            "get": {
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                    },
                    "404": {"description": "none"},
                },
            },
            "put": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Draft"}}}},
                "responses": {"204": {"description": "stored"}},
            },
        }
    },
    "components": {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["id", "state"],
                "properties": {
                    "id": {"type": "integer", "format": "int32"},
                    "state": {"enum": ["open", "paid"]},
                    "note": {"type": "string", "maxLength": 50},
                    "parent": {"$ref": "#/components/schemas/Order"},
                },
            },
            "Draft": {
                "type": "object",
                "required": ["item"],
                "properties": {
                    "item": {"type": "string", "minLength": 1, "maxLength": 40},
                    "count": {"type": "integer"},
                    "colour": {"enum": ["red", "green"]},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
                    "when": {"type": ["string", "null"], "format": "date"},
                },
            },
        },
    },
}
PATH = "/paths/~1orders~1{id}"
ORDER, DRAFT = "/components/schemas/Order", "/components/schemas/Draft"
ABSENT = object()


def edit_document(changes: Mapping[str, object], document: Mapping[str, Any] = API) -> dict[str, Any]:
    """The document with other values at these JSON Pointers; `ABSENT` takes one away."""
    made: dict[str, Any] = copy.deepcopy(dict(document))
    for pointer, value in changes.items():
        *tokens, last = [token.replace("~1", "/") for token in pointer.split("/")[1:]]
        place: Any = made
        for token in tokens:
            place = place[int(token)] if isinstance(place, list) else place.setdefault(token, {})
        if value is ABSENT:
            del place[int(last) if isinstance(place, list) else last]
        elif isinstance(place, list):
            place[int(last) :] = [value]
        else:
            place[last] = value
    return made


def worst_effect(changes: tuple[ApiChange, ...]) -> Effect | None:
    return min((change.effect for change in changes), key=list(Effect).index, default=None)

"""The OpenAPI document of the control API, made of the table that it is served by."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from vswitch.control.operations import JSON, OPERATIONS, Operation
from vswitch.version import __version__

DIALECT = "3.1.0"
REFERENCE = "#/components/schemas/{name}"


class Error(msgspec.Struct):
    """What is wrong, in a line for a person."""

    error: str


@cache
def document() -> dict[str, Any]:
    """The document (OpenAPI 3.1) of all operations."""
    kinds = [kind for operation in OPERATIONS for kind in _json_types(operation)]
    _, schemas = msgspec.json.schema_components([Error, *kinds], ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.full_path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": DIALECT,
        "info": {"title": "The control API of vswitch", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _json_types(operation: Operation[Any]) -> Iterator[Any]:
    if operation.body is not None:
        yield operation.body
    if operation.media == JSON:
        yield operation.answer


def _operation(operation: Operation[Any]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", operation.path)
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method} {operation.path}").strip("_").lower(),
        "parameters": [*map(_in_path, names), *_in_query(operation)],
        "responses": {
            "200": {"description": "Done.", "content": {operation.media: {"schema": _answer(operation)}}},
            "default": {"description": "Refused.", "content": {JSON: {"schema": _schema(Error)}}},
        },
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _schema(operation.body)}}}
    return found


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(operation: Operation[Any]) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    (_, schemas) = msgspec.json.schema_components([operation.query])
    for name, schema in schemas[operation.query.__name__]["properties"].items():
        yield {"name": name, "in": "query", "schema": schema}


def _answer(operation: Operation[Any]) -> dict[str, Any]:
    return _schema(operation.answer) if operation.media == JSON else {"type": "string"}


def _schema(kind: Any) -> dict[str, Any]:
    ((schema,), _) = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return schema

"""The JSON schema of configuration files, which editors check them by while they are written.

It follows the tables that files and URLs are read by, so it cannot say anything else.
"""

from collections.abc import Mapping
from typing import Any

from vswitch.control.config import SWITCH
from vswitch.endpoints.url import SCHEMES, parameter
from vswitch.ports import policy
from vswitch.values import Parameter

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema of a whole file (JSON Schema 2020-12)."""
    return {
        "$schema": DIALECT,
        "title": "A vswitch configuration",
        **_table({"switch": _switch(), "endpoint": {"type": "array", "items": {"anyOf": [*map(_endpoint, SCHEMES)]}}}),
    }


def _switch() -> dict[str, Any]:
    return {"description": "The switch itself.", **_table({name: _said(entry) for name, entry in SWITCH.items()})}


def _endpoint(scheme: str) -> dict[str, Any]:
    url = {"type": "string", "pattern": f"^{scheme}://", "description": "The endpoint's URL."}
    _, own = SCHEMES[scheme]
    parameters = {name: parameter(scheme, name) for name in own} | policy.PARAMETERS
    table = _table({"url": url, **{name: _said(entry) for name, entry in parameters.items()}})
    return {"description": f"A way in by {scheme}://.", "required": ["url"], **table}


def _said(entry: Parameter) -> dict[str, Any]:
    return {"description": entry.about, **entry.schema}


def _table(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}

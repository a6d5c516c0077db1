"""The OpenRPC 1.3 document (https://spec.open-rpc.org) made from the method declarations."""

from typing import Any

import msgspec

from protocol.errors import ErrorCode
from protocol.methods import METHODS, Method

_PREFIX = "#/components/schemas/"
_REFERENCE = _PREFIX + "{name}"


def document(version: str) -> dict[str, Any]:
    """Describe every declared method.

    Args:
        version: The gateway's own version.
    """
    methods = [METHODS[name] for name in sorted(METHODS)]
    types = [kind for method in methods for kind in (method.params, method.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    pairs = zip(schemas[::2], schemas[1::2], strict=True)
    return {
        "openrpc": "1.3.2",
        "info": {"title": "OpenClawMU gateway", "version": version},
        "methods": [
            _describe(method, components[params["$ref"].removeprefix(_PREFIX)], result)
            for method, (params, result) in zip(methods, pairs, strict=True)
        ],
        "components": {
            "schemas": components,
            "errors": {
                code.name: {"code": code.rpc_code, "message": code.name} for code in ErrorCode
            },
        },
    }


def _describe(method: Method, params: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    required = set(params.get("required", ()))
    return {
        "name": method.name,
        "summary": method.doc,
        "paramStructure": "by-name",
        "params": [
            {"name": name, "required": name in required, "schema": schema}
            for name, schema in params.get("properties", {}).items()
        ],
        "result": {"name": "result", "schema": result},
        "x-scope": str(method.scope.name).lower(),
        "x-spends": method.spends,
        "x-idempotent": method.idempotent,
        "x-streams": bool(method.streams),
        "x-timeout-seconds": method.timeout_seconds,
        "x-answered-by": method.answered_by,
    }

"""Whether something is a JSON Schema, as far as a model's provider would refuse it otherwise.

By the meta-schema of https://json-schema.org/draft/2020-12/schema, for the keywords that hold
other schemas and for `type`, `required` and `enum`; other keywords are not looked at.
"""

from collections.abc import Iterator
from typing import Any, Final, NoReturn

from protocol.errors import ErrorCode, GatewayError

DEPTH_MAX: Final = 64
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ONE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_MANY: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")


def check_object(schema: object, field: str) -> None:
    """Refuse what is no schema of an object, as the parameters of a tool have to be."""
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        _refuse(field, 'must be a JSON Schema of an object: {"type":"object","properties":{…}}')
    _walk(schema, field, 0)


def check(schema: object, field: str) -> None:
    """Refuse what is no schema."""
    _walk(schema, field, 0)


def _walk(schema: Any, field: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        _refuse(field, "must be a JSON Schema: an object, true or false")
    if depth > DEPTH_MAX:
        _refuse(field, f"nested deeper than {DEPTH_MAX}")
    _check_keywords(schema, field)
    for inner, where in _inside(schema, field):
        _walk(inner, where, depth + 1)


def _inside(schema: dict[str, Any], field: str) -> Iterator[tuple[Any, str]]:
    """Give the schemas that are part of one, and where."""
    for keyword in _ONE:
        if keyword in schema:
            yield schema[keyword], f"{field}.{keyword}"
    for keyword in _MANY:
        many = schema.get(keyword, ())
        if keyword in schema and (not isinstance(many, list) or not many):
            _refuse(f"{field}.{keyword}", "must be a list of schemas")
        for index, inner in enumerate(many):
            yield inner, f"{field}.{keyword}[{index}]"
    for keyword in _NAMED:
        named = schema.get(keyword, {})
        if not isinstance(named, dict):
            _refuse(f"{field}.{keyword}", "must be an object of schemas")
        for name, inner in named.items():
            yield inner, f"{field}.{keyword}.{name}"


def _check_keywords(schema: dict[str, Any], field: str) -> None:
    types = schema.get("type", [])
    names = types if isinstance(types, list) else [types]
    if not all(isinstance(name, str) and name in _TYPES for name in names):
        _refuse(f"{field}.type", f"must be one of {', '.join(sorted(_TYPES))}, or a list of them")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _refuse(f"{field}.required", "must be a list of names")
    if not isinstance(schema.get("enum", []), list):
        _refuse(f"{field}.enum", "must be a list of values")


def _refuse(field: str, why: str) -> NoReturn:
    # A name may be as long as the schema itself.
    shown = field[:200]
    raise GatewayError(ErrorCode.INVALID_REQUEST, f"{shown}: {why}", field=shown)

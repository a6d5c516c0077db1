"""Parameters for every method, made from its declaration, and the ids in them that name something.

A method that is new is covered without a word here, unless a parameter has a pattern that none of
`SAMPLES` fits.
"""

import re
from typing import Any

import msgspec

from protocol.methods import METHODS, Method, Params, answered_by

SESSION_KEY = "agent:main:main"
SAMPLES = (
    "main",
    "builtin/echo",
    "m1",
    "0" * 64,
    "2027-01-01T00:00:00Z",
    "00000000-0000-4000-8000-000000000000",
    "1",
)
# No id of what belongs to one tenant: what a client makes up, a secret, or a configured name.
NO_IDS = {"idempotencyKey", "agentId", "apiKey"}
_ID = re.compile(r"(?:.*(?:Id|Key)|id|ids|key|keys)s?\Z")


def is_id(name: str) -> bool:
    """Whether a parameter names something that there is, or is not, in a tenant."""
    return bool(_ID.match(name)) and name not in NO_IDS


def schema_of(params: type[Params]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a struct, and what it refers to."""
    schema = msgspec.json.schema(params, ref_template="{name}")
    found: dict[str, Any] = schema["$defs"][schema["$ref"]]
    return found, schema["$defs"]


def ids_of(method: Method) -> list[str]:
    """The parameters of a method that are ids."""
    schema, _ = schema_of(method.params)
    return [name for name in schema["properties"] if is_id(name)]


def example(method: Method, **given: Any) -> dict[str, Any]:
    """Parameters that the method takes: those that are required, and what is `given`."""
    schema, parts = schema_of(method.params)
    made = {name: value_of(name, schema["properties"][name], parts) for name in schema["required"]}
    made.update({name: value for name, value in given.items() if name in schema["properties"]})
    msgspec.json.decode(msgspec.json.encode(made), type=method.params)
    return made


def value_of(name: str, schema: dict[str, Any], parts: dict[str, Any]) -> Any:
    """A value that a schema allows."""
    if name == "body":
        said = [{"role": "user", "content": "hi"}]
        return {"model": "gpt", "messages": said, "input": "hi"}
    if "$ref" in schema:
        schema = parts[schema["$ref"]]
    if "anyOf" in schema:
        return value_of(name, schema["anyOf"][0], parts)
    if "enum" in schema:
        return schema["enum"][0]
    made: Any
    match schema.get("type"):
        case "string":
            made = _text(name, schema)
        case "integer" | "number":
            made = schema["minimum"]
        case "boolean":
            made = False
        case "array":
            made = [value_of(name.removesuffix("s"), schema["items"], parts)]
        case "object":
            inside = schema.get("properties", {})
            made = {inner: value_of(inner, inside[inner], parts) for inner in schema["required"]}
        case _:
            raise AssertionError(f"{name}: no value for {schema}")
    return made


def _text(name: str, schema: dict[str, Any]) -> str:
    if name in ("key", "sessionKey"):
        return SESSION_KEY
    if name == "raw":
        return "{}"
    for sample in SAMPLES:
        if re.search(schema.get("pattern", ""), sample):
            return sample
    raise AssertionError(f"{name}: add a sample for {schema['pattern']}")


ALL = sorted(METHODS)
OF_TENANTS = sorted(METHODS.keys() - answered_by("operator"))

"""The declarations: complete, bounded, closed; and the OpenRPC document made of them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import limits, openrpc
from protocol.errors import ErrorCode
from protocol.methods import ALL_SCOPES, METHODS, Method, Params, Result, Scope, answered_by
from protocol.methods.registry import declare

ROOT = Path(__file__).parents[2]
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)


class NoParams(Params, frozen=True, kw_only=True):
    """None."""


# --- declarations


def test_the_catalogue_has_what_a_tenant_needs_first() -> None:
    assert METHODS.keys() >= {
        *("health", "rpc.discover", "channels.inbound", "chat.history", "chat.abort"),
        *("chat.send", "chat.inject", "agent", "agent.wait"),
        *(f"sessions.{verb}" for verb in ("create", "list", "get", "preview", "resolve", "send")),
        *(f"sessions.{verb}" for verb in ("patch", "reset", "delete", "compact", "abort")),
        *("sessions.search", "config.get", "config.set", "config.patch", "config.schema"),
        *("tenants.get", "tenants.rotate", "tenants.delete"),
        *(f"sandbox.files.{verb}" for verb in ("list", "get", "put", "delete")),
    }


@every_method
def test_a_declaration_is_complete(method: Method) -> None:
    assert METHODS[method.name] is method
    assert re.fullmatch(r"[a-z]+(\.[a-z][A-Za-z]*)*", method.name)
    assert len(method.name) <= limits.METHOD_NAME_CHARS_MAX
    assert isinstance(method.scope, Scope)
    assert method.scope in tuple(Scope)  # one scope, not a set of them
    assert method.doc[0].isupper()
    assert method.doc.endswith(".")
    assert "\n" not in method.doc
    assert 0 < method.timeout_seconds <= limits.CALL_SECONDS_MAX
    assert issubclass(method.params, Params)
    assert not (method.spends and method.scope is Scope.READ)


def test_scopes_fit_a_call() -> None:
    assert [scope.value for scope in Scope] == [1, 2, 4]
    assert ALL_SCOPES.value <= limits.SCOPE_BITS_MAX


@pytest.mark.parametrize(
    "change",
    [
        {"name": "health"},
        {"name": ""},
        {"name": "x" * 65},
        {"doc": "No full stop"},
        {"timeout_seconds": 0},
        {"timeout_seconds": -1.0},
        {"timeout_seconds": limits.CALL_SECONDS_MAX + 1},
        {"timeout_seconds": float("nan")},
    ],
)
def test_a_mistaken_declaration_is_refused(change: dict[str, Any]) -> None:
    before = dict(METHODS)
    fields = {"name": "x.y", "params": NoParams, "result": dict, "scope": Scope.READ, "doc": "Do."}
    with pytest.raises(ValueError, match=r"."):
        declare(**{**fields, **change})
    assert before == METHODS


# --- parameters and results


def schema_of(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    return schema, components


def parts(value: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object inside a schema, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from parts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from parts(inner, f"{path}[{index}]")


@every_method
def test_parameters_are_closed_and_every_one_is_bounded(method: Method) -> None:
    _, components = schema_of(method.params)
    for path, schema in parts(components):
        kind = schema.get("type")
        if kind == "object":
            # Closed, or a map of so many members that are bounded themselves.
            others = schema["additionalProperties"]
            assert others is False or (others and "maxProperties" in schema), path
        elif kind == "string":
            assert schema.keys() & {"maxLength", "pattern", "enum", "const"}, path
        elif kind in ("integer", "number"):
            assert schema.keys() >= {"minimum", "maximum"}, path
        elif kind == "array":
            assert "maxItems" in schema, path


@every_method
def test_an_unknown_parameter_is_named(method: Method) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"missing required field|`nonesuch`"):
        msgspec.json.decode(b'{"nonesuch":1}', type=method.params)
    for body in (b"[]", b"null", b"1", b'"x"'):
        with pytest.raises(msgspec.ValidationError, match="Expected `object`"):
            msgspec.json.decode(body, type=method.params)


@every_method
def test_wire_names_are_in_one_style(method: Method) -> None:
    _, components = schema_of(method.params)
    outside = {"InboundEnvelope", "InboundUser", "InboundText"}  # the channel's own style
    for name, schema in components.items():
        style = r"[a-z_]+" if name in outside else r"[a-z][A-Za-z0-9]*"
        for wire_name in schema.get("properties", {}):
            assert re.fullmatch(style, wire_name), (name, wire_name)


@every_method
def test_results_are_structs_of_ours_or_free_objects(method: Method) -> None:
    free_form = method.result == dict[str, Any]
    assert free_form or issubclass(method.result, Result)


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("sessions.list", {"limit": 0}, "$.limit"),
        ("sessions.list", {"limit": 1001}, "$.limit"),
        ("sessions.list", {"limit": "10"}, "$.limit"),
        ("sessions.list", {"agentId": "main\n"}, "$.agentId"),
        ("sessions.create", {"agentId": "../x"}, "$.agentId"),
        ("sessions.create", {"label": "x" * 513}, "$.label"),
        ("sessions.send", {"key": "k", "message": ""}, "$.message"),
        ("sessions.send", {"key": "k", "message": "x" * (256 * 1024 + 1)}, "$.message"),
        ("chat.history", {"sessionKey": "k", "beforeSeq": 2**53 + 1}, "$.beforeSeq"),
        ("channels.inbound", {"account": "a/b", "envelope": {}}, "$.account"),
    ],
)
def test_a_wrong_parameter_is_named(method: str, params: dict[str, Any], path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(f"`{path}`")):
        msgspec.json.decode(json.dumps(params), type=METHODS[method].params)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("health", {}),
        ("rpc.discover", {}),
        ("sessions.create", {}),
        ("sessions.list", {"limit": 1000, "offset": 2**53}),
        ("sessions.send", {"key": "k" * 1024, "message": "é" * (256 * 1024)}),
        (
            "channels.inbound",
            {
                "account": "web",
                "envelope": {
                    "user": {"id": "u-1", "display_name": "Ann"},
                    "content": {"type": "text", "text": "hi"},
                    "session_id": "s",
                    "message_id": "m",
                },
            },
        ),
    ],
)
def test_right_parameters_are_taken(method: str, params: dict[str, Any]) -> None:
    msgspec.json.decode(json.dumps(params), type=METHODS[method].params)


# --- the document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made = openrpc.document("1.2.3")
    read: dict[str, Any] = json.loads(msgspec.json.encode(made))
    assert read == made  # JSON through and through
    return read


def test_the_document_has_its_required_parts(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"1\.3\.\d+", document["openrpc"])
    assert document["info"] == {"title": "OpenClawMU gateway", "version": "1.2.3"}
    assert document.keys() <= {"openrpc", "info", "methods", "components"}


def test_every_method_is_described_once(document: dict[str, Any]) -> None:
    assert [method["name"] for method in document["methods"]] == sorted(METHODS)
    for described in document["methods"]:
        method = METHODS[described["name"]]
        assert described["summary"] == method.doc
        assert described["paramStructure"] == "by-name"
        assert described["x-scope"] == str(method.scope.name).lower()
        assert described["x-streams"] is bool(method.streams)
        assert described["x-timeout-seconds"] == method.timeout_seconds
        assert described["result"].keys() == {"name", "schema"}


def test_every_parameter_is_described_and_marked_when_required(document: dict[str, Any]) -> None:
    for described in document["methods"]:
        fields = msgspec.structs.fields(METHODS[described["name"]].params)
        assert {param["name"]: param["required"] for param in described["params"]} == {
            field.encode_name: field.required for field in fields
        }
        assert all(param["schema"] for param in described["params"])


def test_every_description_is_of_the_methods_own_structs(document: dict[str, Any]) -> None:
    """Many structs have one name in several domains."""
    schemas = document["components"]["schemas"]
    for described in document["methods"]:
        method = METHODS[described["name"]]
        assert described["x-answered-by"] == method.answered_by
        if method.result != dict[str, Any]:
            name = described["result"]["schema"]["$ref"].removeprefix("#/components/schemas/")
            fields = msgspec.structs.fields(method.result)
            assert set(schemas[name]["properties"]) - {"type"} == {
                field.encode_name for field in fields
            } - {"type"}, described["name"]


def test_the_supervisor_answers_what_takes_its_authority() -> None:
    assert answered_by("supervisor") == {
        "tenants.get",
        "tenants.quota.status",
        "tenants.rotate",
        "tenants.delete",
    }
    assert answered_by("operator") == {"tenants.quota.update"}
    others = answered_by("supervisor") | answered_by("operator")
    assert answered_by("worker") == METHODS.keys() - others


def test_the_page_of_methods_is_made_of_these_declarations() -> None:
    program = [sys.executable, str(ROOT / "scripts" / "methods_page.py")]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "methods.md").read_text() == printed, (
        "run scripts/methods_page.py --write"
    )
    assert all(f"### `{name}`\n" in printed for name in METHODS)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    prefix = "#/components/schemas/"
    references = {schema["$ref"] for _, schema in parts(document) if "$ref" in schema}
    assert references
    for reference in references:
        assert reference.startswith(prefix)
        assert reference.removeprefix(prefix) in document["components"]["schemas"]


def test_every_pattern_is_one_for_json_schema_too(document: dict[str, Any]) -> None:
    patterns = {schema["pattern"] for _, schema in parts(document) if "pattern" in schema}
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        # What Python has and ECMA 262 has not.
        assert not re.search(r"\\[AZ]|\(\?P|\(\?<[=!]|\(\?#|\(\?[a-zA-Z]", pattern)


def test_every_error_is_described(document: dict[str, Any]) -> None:
    assert {name: row["code"] for name, row in document["components"]["errors"].items()} == {
        code.name: code.rpc_code for code in ErrorCode
    }
    for row in document["components"]["errors"].values():
        assert row["message"]

import asyncio
import json
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import METHODS, Scope, answered_by
from protocol.methods.registry import Method, Params
from tests.worker.calls import EVERY_METHOD, OF_TERMINALS, OF_WEBSOCKETS
from tests.worker.egress import EgressEnd
from tests.worker.harness import names, running_worker
from tests.worker.launcher import LauncherEnd
from worker import dispatch, main

KEY = "agent:main:main"


async def refusal(method: str, params: object, **more: Any) -> GatewayError:
    async with running_worker() as rig:
        return await rig.front.refused(method, params, **more)


def test_every_method_has_a_handler() -> None:
    dispatch.check_complete()
    assert dispatch._bindings.keys() == answered_by("worker")
    assert main.EXIT_DRAINED == 0


def test_missing_and_undeclared_handlers_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    binding = dispatch._bindings["health"]
    monkeypatch.delitem(dispatch._bindings, "health")
    with pytest.raises(LookupError, match=r"without a handler: \['health'\]"):
        dispatch.check_complete()
    monkeypatch.setitem(dispatch._bindings, "health", binding)
    monkeypatch.setitem(dispatch._bindings, "made.up", binding)
    with pytest.raises(LookupError, match=r"not declared: \['made.up'\]"):
        dispatch.check_complete()


def test_two_handlers_for_one_method_are_refused() -> None:
    with pytest.raises(ValueError, match="two handlers"):
        dispatch.handles(METHODS["health"])(lambda _call, _params: None)


@pytest.mark.parametrize(
    ("method", "params", "message", "field"),
    [
        (
            "sessions.create",
            {"label": 1},
            "invalid sessions.create params: $.label: expected str",
            "label",
        ),
        ("sessions.create", {"nope": 1}, "$.nope: unknown field", "nope"),
        (
            "sessions.create",
            {"label": "x" * 513},
            "$.label: expected str of length <= 512",
            "label",
        ),
        ("sessions.create", {"agentId": "Main"}, "$.agentId: expected str matching", "agentId"),
        ("sessions.create", {"agentId": "main\n"}, "$.agentId: expected str matching", "agentId"),
        ("sessions.create", {"label": "a\0b"}, "$.label: must not contain NUL", "label"),
        ("sessions.create", {"message": ""}, "$.message: expected str of length >= 1", "message"),
        ("sessions.create", {"key": "nonsense"}, "key is no session key", "key"),
        ("sessions.create", {"key": "agent:main:../../x"}, "key is no session key", "key"),
        ("sessions.create", {"key": "agent:main:x\n"}, "key is no session key", "key"),
        ("sessions.get", {}, "$.key: required, but missing", "key"),
        ("sessions.get", {"key": "tenant:acme:agent:main:x"}, "key is no session key", "key"),
        (
            "sessions.send",
            {"key": KEY, "message": "a\0"},
            "$.message: must not contain NUL",
            "message",
        ),
        ("sessions.list", {"limit": 0}, "$.limit: expected int >= 1", "limit"),
        ("sessions.list", {"limit": True}, "$.limit: expected int, got bool", "limit"),
        ("sessions.list", {"limit": 10**30}, "$.limit: ", "limit"),
        (
            "chat.history",
            {"sessionKey": "agent:main"},
            "sessionKey is no session key",
            "sessionKey",
        ),
        ("chat.history", {"session_key": KEY}, "unknown field", "session_key"),
        (
            "channels.inbound",
            {
                "account": "a",
                "envelope": {"user": {"id": 5}, "content": {"type": "text", "text": "x"}},
            },
            "$.envelope.user.id: expected str, got int",
            "envelope.user.id",
        ),
        (
            "channels.inbound",
            {
                "account": "a",
                "envelope": {"user": {"id": "u\n"}, "content": {"type": "text", "text": "x"}},
            },
            "$.envelope.user.id: expected str matching",
            "envelope.user.id",
        ),
        (
            "channels.inbound",
            {"account": "a", "envelope": {"user": {"id": "u"}, "content": {"type": "text"}}},
            "$.envelope.content.text: required, but missing",
            "envelope.content.text",
        ),
        (
            "channels.inbound",
            {
                "account": "a",
                "envelope": {"user": {"id": "u"}, "content": {"type": "text", "text": "\0"}},
            },
            "$.envelope.content.text: must not contain NUL",
            "envelope.content.text",
        ),
    ],
)
async def test_bad_params_name_the_field(
    tenant_dir: Path, method: str, params: object, message: str, field: str
) -> None:
    error = await refusal(method, params)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert message in error.message
    assert error.details == {"field": field}
    assert names(tenant_dir) == []


@pytest.mark.parametrize("params", [b"[]", b"[1]", b"null", b'"x"', b"5", b"true"])
async def test_params_by_position_are_refused(tenant_dir: Path, params: bytes) -> None:
    error = await refusal("sessions.create", params)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert error.message == "params must be an object (by name)"


@pytest.mark.parametrize(
    "params",
    [
        b"",
        b"{",
        b"{}}",
        b"\xff\xfe",
        b'{"label":"\xff"}',
        b'{"label":"\\ud800"}',
        b'{"label":"\\udc00x"}',
        b'{"label":"a\x01b"}',
        b'{"label":"a\x00b"}',
        b'{"label":NaN}',
    ],
)
async def test_what_is_no_json_is_a_parse_error(tenant_dir: Path, params: bytes) -> None:
    error = await refusal("sessions.create", params)
    assert error.code is ErrorCode.PARSE_ERROR
    assert error.message.isascii()
    assert names(tenant_dir) == []


@pytest.mark.parametrize("depth", [1_000, 100_000, 3_000_000])
@pytest.mark.parametrize("method", ["sessions.create", "health", "channels.inbound"])
async def test_deep_nesting_is_refused(tenant_dir: Path, method: str, depth: int) -> None:
    for params in (b'{"x":' + b"[" * depth, b'{"envelope":' + b'{"user":' * (depth // 8)):
        error = await refusal(method, params)
        assert error.code in (ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST)


async def test_names_from_outside_are_shown_cut_and_escaped(tenant_dir: Path) -> None:
    hostile = 'x\n\x1b[31m" - at `$.label` ' + "y" * 100_000
    async with running_worker() as rig:
        error = await rig.front.refused("sessions.create", {hostile: 1})
        assert error.code is ErrorCode.INVALID_REQUEST
        assert error.message.isprintable()
        assert len(error.message) < 200
        assert len(error.details["field"]) <= limits.METHOD_NAME_CHARS_MAX + 1
        unknown = await rig.front.refused("no\n.such\x1b[2J" + "é" * 40)
        assert unknown.code is ErrorCode.METHOD_NOT_FOUND
        assert unknown.message.startswith("unknown method: no\\n.such\\x1b[2J")
        assert unknown.message.rstrip("…").isascii()


async def test_last_of_duplicate_keys_wins(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        made = await rig.front.call("sessions.create", b'{"label":"a","label":"b"}')
        assert made["entry"]["label"] == "b"


@pytest.mark.parametrize("method", sorted(answered_by("worker")))
@pytest.mark.parametrize("scopes", [0, *(int(scope) for scope in Scope)])
async def test_every_method_needs_its_scope(tenant_dir: Path, method: str, scopes: int) -> None:
    needed = METHODS[method].scope
    async with running_worker() as rig:
        await LauncherEnd().meet(rig.links.channel)
        await EgressEnd().meet(rig.links.channel)
        try:
            await rig.front.call(method, {}, scopes=scopes)
            code, details = None, {}
        except GatewayError as error:
            code, details = error.code, error.details
            message = error.message
        if scopes >= needed:
            assert code is not ErrorCode.FORBIDDEN
        else:
            assert code is ErrorCode.FORBIDDEN
            assert message == f"missing scope: {str(needed.name).lower()}"
            assert details == {"requiredScope": str(needed.name).lower()}


class _Nothing(Params, frozen=True, kw_only=True):
    pass


@pytest.fixture
def add_method(monkeypatch: pytest.MonkeyPatch) -> Any:
    def add(handler: Any, *, timeout: float = 1.0) -> None:
        method = Method(
            "test.method",
            _Nothing,
            dict[str, Any],
            Scope.READ,
            "A test.",
            False,
            False,
            "",
            timeout,
        )
        monkeypatch.setattr(dispatch, "_bindings", dict(dispatch._bindings))
        dispatch.handles(method)(handler)

    return add


SECRET = "what the user wrote"


@pytest.mark.parametrize("is_async", [False, True])
async def test_other_exceptions_are_internal_and_logged_without_text(
    tenant_dir: Path, add_method: Any, capfd: pytest.CaptureFixture[str], is_async: bool
) -> None:
    def fail(_call: object, _params: object) -> None:
        raise RuntimeError(SECRET)

    async def fail_later(call: object, params: object) -> None:
        fail(call, params)

    add_method(fail_later if is_async else fail)
    async with running_worker() as rig:
        error = await rig.front.refused("test.method")
        assert (error.code, error.message) == (ErrorCode.INTERNAL, "internal error")
        assert list(error.details) == ["reference"]
        assert (await rig.front.call("health"))["ok"]
    assert uuid.UUID(error.details["reference"]).version == 4
    (line,) = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert line["reference"] == error.details["reference"]
    assert line["error"] == "RuntimeError"
    assert line["method"] == "test.method"
    assert "test_dispatch.py" in line["at"][-1]
    assert SECRET not in str(line)


@pytest.mark.parametrize("is_async", [False, True])
async def test_result_over_a_frame_is_refused(
    tenant_dir: Path, add_method: Any, is_async: bool
) -> None:
    def answer(_call: object, _params: object) -> object:
        return {"x": "y" * limits.FRAME_BYTES_MAX}

    async def answer_later(call: object, params: object) -> object:
        return answer(call, params)

    add_method(answer_later if is_async else answer)
    async with running_worker() as rig:
        error = await rig.front.refused("test.method")
        assert error.code is ErrorCode.PAYLOAD_TOO_LARGE
        assert (await rig.front.call("health"))["ok"]


async def test_result_of_the_greatest_size_fits(tenant_dir: Path, add_method: Any) -> None:
    size = dispatch.RESULT_BYTES_MAX - len(b'{"x":""}')
    add_method(lambda _call, _params: {"x": "y" * size})
    async with running_worker() as rig:
        assert len((await rig.front.call("test.method"))["x"]) == size


async def test_handler_over_its_time_is_cut_off(tenant_dir: Path, add_method: Any) -> None:
    cut = asyncio.Event()

    async def wait(_call: object, _params: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    add_method(wait, timeout=0.02)
    async with running_worker() as rig:
        error = await rig.front.refused("test.method")
        assert error.code is ErrorCode.TIMEOUT
        assert "test.method" in error.message
        assert cut.is_set()


async def test_timeout_of_a_handlers_own_is_internal(
    tenant_dir: Path, add_method: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(_call: object, _params: object) -> None:
        raise TimeoutError

    add_method(fail)
    assert (await refusal("test.method", {})).code is ErrorCode.INTERNAL


async def test_discover_gives_the_document_of_this_version(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        document = await rig.front.call("rpc.discover")
    assert document["info"]["version"] == version("openclawmu")
    assert [method["name"] for method in document["methods"]] == sorted(METHODS)


async def test_health(tenant_dir: Path) -> None:
    async with running_worker(tenant="globex", generation=7) as rig:
        empty = await rig.front.call("health")
        assert names(tenant_dir) == []
        probed = await rig.front.call("health", {"probe": True})
        assert (tenant_dir / "sessions/sessions.sqlite").exists()
        await rig.front.call("sessions.create", {})
        one = await rig.front.call("health")
    for answer in (empty, probed, one):
        assert (answer["ok"], answer["tenant"], answer["generation"]) == (True, "globex", 7)
        assert answer["defaultAgentId"] == "main"
    assert (
        empty["sessions"] == probed["sessions"] == {"count": 0, "turnsRunning": 0, "turnsQueued": 0}
    )
    assert one["sessions"]["count"] == 1


async def test_results_are_what_the_declarations_say(tenant_dir: Path) -> None:
    """The dispatcher sends what handlers give: decode each result by its declaration."""
    called = {name for name, _ in EVERY_METHOD}
    assert called | OF_WEBSOCKETS | OF_TERMINALS == answered_by("worker")
    async with running_worker() as rig:
        await LauncherEnd().meet(rig.links.channel)
        await EgressEnd().meet(rig.links.channel)
        run_id = ""
        for name, params in EVERY_METHOD:
            given = {"runId": run_id} if name == "agent.wait" else params
            result = await rig.front.call(name, given)
            run_id = result.get("runId", run_id)
            decoded = msgspec.convert(result, METHODS[name].result)
            assert msgspec.json.decode(msgspec.json.encode(decoded)) == result, name
            if name in ("sessions.send", "chat.send"):
                await rig.front.finished(result["runId"], KEY)
        for name in OF_WEBSOCKETS:
            assert (await rig.front.refused(name)).code is ErrorCode.INVALID_REQUEST

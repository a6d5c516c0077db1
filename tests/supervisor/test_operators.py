"""Quotas as operators say them: by the control plane, and by JSON-RPC with the admin key."""

import json
from typing import Any, get_args

import pytest

from protocol.quotas import Metric, Quota
from supervisor.control.plane import ControlPlane
from supervisor.tenants import TenantDesk
from tests.supervisor.test_control import ACME, TENANTS, ask, desk, plane

__all__ = ["desk", "plane"]  # fixtures

FIELDS = (*get_args(Metric), "softPercent")
WHOLE = dict.fromkeys(get_args(Metric), 7) | {"softPercent": 50}
METHOD = "tenants.quota.update"


def call(method: str = METHOD, request_id: Any = 1, **params: Any) -> Any:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


async def made(plane: ControlPlane) -> None:
    status, _ = await ask(plane, "POST", TENANTS, {"tenantId": "acme", "quota": WHOLE})
    assert status == 201


def audited(desk: TenantDesk) -> list[tuple[Any, Any]]:
    lines = desk._state.audit.read_text().splitlines()
    details = [json.loads(line) for line in lines if '"tenant.updated"' in line]
    assert {line["actor"] for line in details} <= {"admin"}
    return [
        (line["detail"]["before"]["quota"], line["detail"]["after"]["quota"]) for line in details
    ]


async def test_every_limit_is_given_changed_and_taken_away(
    plane: ControlPlane, desk: TenantDesk
) -> None:
    await made(plane)
    quota = dict(WHOLE)
    for field in FIELDS:
        least = 1 if field == "softPercent" else 0
        values: tuple[int | None, ...] = (least, None)
        for value in values:
            status, shown = await ask(plane, "PATCH", ACME, {"quota": {field: value}})
            before = dict(quota)
            quota |= {field: value}
            if value is None:
                del quota[field]
            assert (status, shown["quota"]) == (200, quota)
            assert audited(desk)[-1] == (before, quota)
    assert desk.get("acme").quota == Quota()


async def test_the_same_as_a_method(plane: ControlPlane, desk: TenantDesk) -> None:
    await made(plane)
    change = {"tokensPerDay": None, "requestsPerMinute": 9}
    status, answer = await ask(
        plane, "POST", "/rpc", call(request_id="x", tenantId="acme", quota=change)
    )
    quota = {**WHOLE, "requestsPerMinute": 9}
    del quota["tokensPerDay"]
    result = {"tenantId": "acme", "updated": True, "quota": quota}
    assert (status, answer) == (200, {"jsonrpc": "2.0", "id": "x", "result": result})
    assert audited(desk) == [(WHOLE, quota)]
    note = call(tenantId="acme", quota={"concurrentRuns": 0})
    del note["id"]
    assert (await ask(plane, "POST", "/rpc", note))[0] == 204
    assert desk.get("acme").quota.concurrent_runs == 0
    status, shown = await ask(plane, "GET", f"{ACME}/quota")
    assert (status, shown["quotas"]) == (200, {**quota, "concurrentRuns": 0})


NO_LIMITS: tuple[Any, ...] = (-1, 1.5, "7", True, 2**53 + 1, [], {})
BAD = [(field, value) for field in FIELDS for value in NO_LIMITS] + [
    ("softPercent", 0),
    ("softPercent", 101),
    ("tokens", 1),
    ("tokens_per_day", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD)
async def test_what_is_no_limit_is_refused_by_its_name(
    plane: ControlPlane, desk: TenantDesk, field: str, value: Any
) -> None:
    await made(plane)
    quota = {field: value}
    for verb, path, body in (
        ("POST", TENANTS, {"tenantId": "globex", "quota": quota}),
        ("PATCH", ACME, {"quota": quota}),
    ):
        status, answer = await ask(plane, verb, path, body)
        assert (status, answer["code"], answer["field"]) == (
            400,
            "INVALID_REQUEST",
            f"quota.{field}",
        )
    status, answer = await ask(plane, "POST", "/rpc", call(tenantId="acme", quota=quota))
    error = answer["error"]
    assert (status, error["data"]["field"], answer["id"]) == (400, f"quota.{field}", 1)
    for number in (b"NaN", b"1e999", b"Infinity"):
        raw = b'{"quota":{"%b":%b}}' % (field.encode(), number)
        assert (await ask(plane, "PATCH", ACME, raw))[0] == 400
    assert [(row.tenant_id, row.quota) for row in desk.list()] == [("acme", desk.get("acme").quota)]
    assert audited(desk) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "PARSE_ERROR"),
        (b"\xff", 400, "PARSE_ERROR"),
        (b"[" * 60_000, 400, "MALFORMED_REQUEST"),
        ([call(tenantId="acme", quota={})], 400, "MALFORMED_REQUEST"),
        ({"jsonrpc": "2.0"}, 400, "MALFORMED_REQUEST"),
        (call("chat.send"), 404, "METHOD_NOT_FOUND"),
        (call("tenants.quota.status"), 404, "METHOD_NOT_FOUND"),
        (call(quota={}), 400, "INVALID_REQUEST"),
        (call(tenantId="acme"), 400, "INVALID_REQUEST"),
        (call(tenantId="../acme", quota={}), 400, "INVALID_REQUEST"),
        (call(tenantId="nobody", quota={}), 404, "NOT_FOUND"),
        (call(tenantId="acme", quota=None), 400, "INVALID_REQUEST"),
        (call(tenantId="acme", quota={}, more=1), 400, "INVALID_REQUEST"),
    ],
)
async def test_a_call_that_cannot_be_done_is_told_why(
    plane: ControlPlane, desk: TenantDesk, body: Any, status: int, code: str
) -> None:
    await made(plane)
    told, answer = await ask(plane, "POST", "/rpc", body)
    assert (told, answer["error"]["data"]["code"]) == (status, code)
    assert audited(desk) == []


async def test_nobody_else_is_an_operator(plane: ControlPlane, desk: TenantDesk) -> None:
    await made(plane)
    body = call(tenantId="acme", quota={"tokensPerDay": 0})
    for secret in ("", "ak_wrong", "tk_acme_" + "0" * 32):
        status, answer = await ask(plane, "POST", "/rpc", body, secret=secret)
        assert (status, answer["error"]["code"], answer["id"]) == (401, -32001, None)
    assert audited(desk) == []

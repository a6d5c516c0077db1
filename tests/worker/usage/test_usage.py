"""What tenants are told of their use: a worker behind a link, egress, and a ledger."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import limits
from protocol.egress import Provider
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from protocol.quotas import NO_QUOTA
from protocol.usage import DaysAsked
from supervisor.bills import HEADER
from supervisor.egress.till import Estimate, Purpose
from supervisor.egress.usage import UsageDesk
from tests.supervisor.egress.tilling import BILLING, moment
from tests.worker.harness import Front, ManualClock, running_worker
from tests.worker.real_egress import RunningEgress, running_egress

NOW = moment("2026-11-14T12:00:00")
SPENT = Spent(input=10, cache_read=4, cache_write=3, output=2, reasoning=1)
COST = 10 + 4 + 3 + 2 * (2 + 1)
"""Of `SPENT`, by the card of `BILLING`."""


@asynccontextmanager
async def tenant(
    root: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock, **settings: Any
) -> AsyncIterator[tuple[Front, RunningEgress]]:
    for name in ("acme", "ledger"):
        (root / name).mkdir(mode=0o700)
    monkeypatch.chdir(root / "acme")
    providers = {"mine": Provider(type="openai", base_url="http://127.0.0.1:9")}
    settings = {"providers": providers, "billing": BILLING} | settings
    async with (
        running_egress(root / "ledger", clock.now_ms, **settings) as egress,
        running_worker(clock=clock) as rig,
    ):
        egress.meet(rig.links.channel, "acme")
        yield rig.front, egress


async def spend(
    egress: RunningEgress, tenant: str = "acme", session: str | None = None, *, own: bool = False
) -> None:
    purpose = Purpose("m", "mine", session_key=session, own_key=own)
    egress.till.limit(tenant, NO_QUOTA)
    held = await egress.till.reserve(tenant, purpose, Estimate(100, 100))
    await egress.till.settle(held, SPENT, tool_calls=2, request_id='r,"1"')


async def test_what_a_tenant_is_told(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(moment("2026-10-31T23:59:59.999"))
    async with tenant(state_dir, monkeypatch, clock) as (front, egress):
        await spend(egress, session="agent:main:a")
        clock.ms = NOW
        await spend(egress, session="agent:main:b")
        await spend(egress, own=True)
        for _ in range(3):
            await spend(egress, "globex", "agent:main:a")

        month = await front.call("tenants.usage", {"tenantId": "acme"})
        assert month == {
            "tenantId": "acme",
            "period": "2026-11",
            "totalTokens": 40,
            "inputTokens": 20,
            "cacheReadTokens": 8,
            "cacheWriteTokens": 6,
            "outputTokens": 4,
            "reasoningTokens": 2,
            "totalCostMicroUsd": COST,
            "modelCalls": 2,
            "estimatedCalls": 0,
            "toolCalls": 4,
            "sandboxSeconds": 0.0,
            "sandboxCpuSeconds": 0.0,
            "egressBytes": 0,
            "totalSessions": 0,
            "activeSessions": 0,
            "updatedAt": NOW,
            "quotaResetAt": moment("2026-12-01"),
        }
        history = (await front.call("tenants.usage.history", {"months": 3}))["history"]
        assert [(each["period"], each["modelCalls"]) for each in history] == [
            *(("2026-11", 2), ("2026-10", 1), ("2026-09", 0)),
        ]
        cost = await front.call("usage.cost", {"startDate": "2026-10-31", "endDate": "2026-11-14"})
        assert cost["days"] == 15
        assert [(day["date"], day["totalCostMicroUsd"]) for day in cost["daily"]] == [
            *(("2026-10-31", COST), ("2026-11-14", COST)),
        ]
        (model,) = cost["models"]
        assert (model["model"], model["kind"], model["calls"]) == ("m", "model", 3)
        assert cost["totals"] == {
            "calls": 3,
            "input": 30,
            "output": 6,
            "cacheRead": 12,
            "cacheWrite": 9,
            "reasoning": 3,
            "totalTokens": 60,
            "totalCostMicroUsd": 2 * COST,
            "missingCostEntries": 0,
        }
        (provider,) = (await front.call("usage.status"))["providers"]
        assert (provider["provider"], provider["ownKey"]) == ("mine", False)
        assert (provider["today"]["calls"], provider["month"]["costMicroUsd"]) == (2, COST)
        sessions = (await front.call("sessions.usage"))["sessions"]
        assert [(each["key"], each["costMicroUsd"]) for each in sessions] == [
            *(("agent:main:b", COST), ("agent:main:a", COST)),
        ]
        one = await front.call("sessions.usage", {"key": "agent:main:b", "startDate": "2026-11-14"})
        assert [each["calls"] for each in one["sessions"]] == [1]


async def test_a_report_page_by_page(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tenant(state_dir, monkeypatch, ManualClock(NOW)) as (front, egress):
        for _ in range(5):
            await spend(egress)
            await spend(egress, "globex")
        whole = await front.call("usage.report", {"period": "today"})
        assert [row["costMicroUsd"] for row in whole["rows"]] == [COST] * 5
        assert {row["tenantId"] for row in whole["rows"]} == {"acme"}
        assert "nextCursor" not in whole
        for form in ("json", "csv"):
            asked = {"period": "2026-11-14", "format": form, "limit": 2}
            pages = [await front.call("usage.report", asked)]
            await spend(egress)  # comes too late for a report that has begun
            while "nextCursor" in pages[-1]:
                cursor = {"cursor": pages[-1]["nextCursor"]}
                pages.append(await front.call("usage.report", asked | cursor))
            if form == "json":
                assert [row for page in pages for row in page["rows"]] == whole["rows"]
                continue
            read = list(csv.DictReader(io.StringIO("".join(page["csv"] for page in pages))))
            assert [row["entry_id"] for row in read][:5] == [
                str(row["entryId"]) for row in whole["rows"]
            ]
            assert read[0]["request_id"] == 'r,"1"'
            assert pages[0]["csv"].startswith(HEADER)


async def test_a_page_fits_its_answer(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "USAGE_ROWS_BYTES_MAX", 50_000)
    async with tenant(state_dir, monkeypatch, ManualClock(NOW), concurrent=130) as (front, egress):
        await asyncio.gather(*(spend(egress, session="ä" * 1024) for _ in range(130)))
        page = await front.call("usage.report", {"limit": limits.USAGE_ROWS_MAX})
        assert len(page["rows"]) == 100
        rest = await front.call("usage.report", {"cursor": page["nextCursor"]})
        assert len(rest["rows"]) == 30


BAD: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("usage.report", {"period": "soon"}, "period"),
    ("usage.report", {"period": "x" * 99}, "period"),
    ("usage.report", {"format": "xml"}, "format"),
    ("usage.report", {"limit": 0}, "limit"),
    ("usage.report", {"cursor": "1.2"}, "cursor"),
    ("usage.cost", {"startDate": "2026-02-30"}, "startDate"),
    ("usage.cost", {"startDate": "2026-11-03", "endDate": "2026-11-02"}, "startDate"),
    ("usage.cost", {"startDate": "1999-01-01"}, "startDate"),
    ("usage.cost", {"endDate": "2026-11"}, "endDate"),
    ("usage.cost", {"days": 0}, "days"),
    ("tenants.usage.history", {"months": 25}, "months"),
    ("sessions.usage", {"startDate": "today"}, "startDate"),
    ("sessions.usage", {"key": "../x"}, "key"),
    ("models.keys.set", {"provider": "other", "apiKey": "k" * 8}, "provider"),
    ("models.keys.set", {"provider": "mine", "apiKey": "k" * 7}, "apiKey"),
    ("models.keys.set", {"provider": "mine", "apiKey": "key\r\nx-other: 1"}, "apiKey"),
)


async def test_bad_input_is_named(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tenant(state_dir, monkeypatch, ManualClock(NOW)) as (front, _egress):
        for method, params, field in BAD:
            with pytest.raises(GatewayError) as refused:
                await front.call(method, params)
            assert refused.value.code is ErrorCode.INVALID_REQUEST, params
            assert refused.value.details["field"] == field, params
            assert params.get("apiKey", "\0") not in refused.value.message


@pytest.mark.parametrize("method", ["tenants.usage", "tenants.usage.history"])
async def test_another_tenant_is_as_one_that_is_not_there(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with tenant(state_dir, monkeypatch, ManualClock(NOW)) as (front, egress):
        await spend(egress, "globex")
        said = []
        for named in ("globex", "nobody"):
            with pytest.raises(GatewayError) as refused:
                await front.call(method, {"tenantId": named})
            said.append((refused.value.code, refused.value.message, refused.value.details))
        assert said[0] == said[1]
        assert said[0][0] is ErrorCode.FORBIDDEN


async def test_keys_of_ones_own(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-CANARY-own-0123456789"
    async with tenant(state_dir, monkeypatch, ManualClock(NOW)) as (front, egress):
        egress.keys.set("globex", "mine", "theirs-theirs", 5)
        assert await front.call("models.keys.list") == {"keys": []}
        said = await front.call("models.keys.set", {"provider": "mine", "apiKey": key})
        assert said == {"ok": True, "provider": "mine"}
        assert egress.keys.key("acme", "mine") == key
        (known,) = (await front.call("models.keys.list"))["keys"]
        assert known.keys() == {"provider", "createdAt"}
        (status,) = (await front.call("usage.status"))["providers"]
        assert (status["ownKey"], status["month"]["calls"]) == (True, 0)
        gone = [await front.call("models.keys.delete", {"provider": "mine"}) for _ in range(2)]
        assert [each["deleted"] for each in gone] == [True, False]
        assert egress.keys.key("acme", "mine") is None
        assert egress.keys.key("globex", "mine") == "theirs-theirs"


async def test_an_operator_may_forbid_them(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(NOW)
    async with tenant(state_dir, monkeypatch, clock, own_keys=False) as (front, egress):
        with pytest.raises(GatewayError, match=r"egress\.own_keys") as refused:
            await front.call("models.keys.set", {"provider": "mine", "apiKey": "k" * 8})
        assert refused.value.code is ErrorCode.FORBIDDEN
        assert egress.keys.known("acme") == []


async def test_what_takes_too_long_ends_and_one_tenant_takes_no_ones_place(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_egress(state_dir, billing=BILLING) as egress:
        await spend(egress)
        desk = UsageDesk(state_dir, egress.keys.providers)
        asked = DaysAsked(first="2026-01-01", last="2026-12-31")
        answers = await asyncio.gather(
            *(desk.answer("acme", asked) for _ in range(limits.USAGE_WAITING_PER_TENANT_MAX + 1)),
            desk.answer("globex", asked),
            return_exceptions=True,
        )
        *mine, late, theirs = answers
        assert all(isinstance(each, bytes) for each in (*mine, theirs))
        assert isinstance(late, GatewayError)
        assert late.code is ErrorCode.RATE_LIMITED
        assert msgspec.json.decode(await desk.answer("acme", asked))["models"]
        monkeypatch.setattr(limits, "USAGE_SECONDS", -1.0)
        monkeypatch.setattr("supervisor.egress.usage._STEPS", 1)
        with pytest.raises(GatewayError, match="fewer days") as slow:
            await desk.answer("acme", asked)
        assert slow.value.code is ErrorCode.TIMEOUT
        desk.close()

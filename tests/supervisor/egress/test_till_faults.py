"""A disk that fails under the till: nothing is spent that is not written, and it goes on after."""

import asyncio
import errno
import itertools
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from protocol.quotas import Quota
from supervisor.egress import ledger_till
from supervisor.egress.till import Estimate
from tests.supervisor.egress.test_ledger import checked
from tests.supervisor.egress.tilling import MODEL, Clock, reserved, rows, till_over, turning
from tests.workers.faults import FailingVFS, Orders

SMALL = Estimate(10, 20)
T = TypeVar("T")


async def outcome(asked: Awaitable[T]) -> tuple[T | None, ErrorCode | None]:
    try:
        return await asked, None
    except GatewayError as error:
        return None, error.code


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_refuses(tmp_path: Path, number: int, lasting: bool) -> None:
    orders = Orders(str(tmp_path / "orders"))
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    clock, charged, owed = Clock(), 0, 0
    with FailingVFS(orders):
        async with till_over(ledger, clock, quota=Quota(tokens_per_day=10_000)) as till:
            for after in itertools.count(1):
                orders.arm(after, number, lasting=lasting)
                reservation, refusal = await outcome(till.reserve("acme", MODEL, SMALL))
                if reservation is None:
                    assert refusal is ErrorCode.UNAVAILABLE
                    assert orders.disarm()
                    # Nothing is set aside for a call that was not let in.
                    assert till.uses("acme")[0].used == charged
                    continue
                settling = asyncio.ensure_future(till.settle(reservation, Spent(input=7)))
                await turning(lambda: settling.done() or bool(till._owed))  # noqa: B023
                if not settling.done():
                    owed += 1
                    # It has been spent: it counts, and nobody spends before it is written.
                    assert till.uses("acme")[0].used == charged + 7
                    with pytest.raises(GatewayError, match="ledger cannot be written"):
                        await till.reserve("acme", MODEL, SMALL)
                    assert orders.disarm()
                    till.look()
                assert (await settling).spent == Spent(input=7)
                charged += 7
                await till.release(await till.reserve("acme", MODEL, SMALL))
                assert till.uses("acme")[0].used == charged
                if not orders.disarm():
                    break
    assert owed
    assert sum(row.input_tokens for row in rows(ledger)) == charged
    assert reserved(ledger) == []
    assert checked(ledger, clock.now).found == 0


async def test_a_disk_that_refuses_for_long_is_said_and_the_row_written_when_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_till, "OWED_SECONDS", 0.01)
    orders = Orders(str(tmp_path / "orders"))
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    with FailingVFS(orders):
        async with till_over(ledger, Clock()) as till:
            reservation = await till.reserve("acme", MODEL, SMALL)
            orders.arm(1, errno.ENOSPC, lasting=True)
            with pytest.raises(GatewayError, match="charged when it can") as caught:
                await till.settle(reservation, Spent(input=7))
            assert caught.value.code is ErrorCode.UNAVAILABLE
            await turning(lambda: bool(till._owed))
            orders.disarm()
    assert [row.input_tokens for row in rows(ledger)] == [7]  # it was tried again at the end

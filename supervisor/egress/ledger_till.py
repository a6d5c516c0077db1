"""The till that is: it decides in memory, and lets nobody spend what is not on the disk first.

A reservation is decided against what was settled in the window and all that is set aside
(`supervisor.egress.books`), is in the ledger before the call is made, and holds the rate card that
the call will be priced by, whatever is changed meanwhile. It ends with its row, in one transaction;
with a release; at the end of its lease; or with this process: whoever opens the ledger next
releases what is left.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from protocol.egress import Ran, Settings
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from protocol.quotas import NO_QUOTA, Quota, Standing, Use
from supervisor.egress import ledger as writing
from supervisor.egress.books import Books
from supervisor.egress.ledger import Ledger, Reserved, Row, open_ledger
from supervisor.egress.ledger_schema import Kind
from supervisor.egress.rates import RateCard
from supervisor.egress.standings import Standings
from supervisor.egress.till import Charge, Estimate, Purpose, Reservation

LOOK_SECONDS: Final = 1.0
"""How often it looks for windows and leases that have ended, and for a disk that takes more."""
LEASE_SPARE_MS: Final = 60_000
"""What a lease is longer than a call may take."""
OWED_SECONDS: Final = 5.0
"""How long a settlement waits for a disk that refuses it, before its caller hears of it."""
OWED_MAX: Final = 16_384
BYTES_PER_TOKEN: Final = 3
"""For an estimate: few tokens of text are shorter."""
REQUEST_ID_CHARS_MAX: Final = 200
TOKENS_MAX: Final = 2**40
"""Of one class: a provider that says more has said nothing."""


class _Open(NamedTuple):
    reservation: Reservation
    card: RateCard
    tokens: int
    cost: int
    lease_until: int


class _Owed(NamedTuple):
    row: Row
    card: RateCard
    done: asyncio.Future[None]


def unix_ms() -> int:
    """Give the time of day, in Unix ms."""
    return time.time_ns() // 1_000_000


class LedgerTill:
    """See the module; implements `Till`.

    Args:
        ledger: The open ledger; closed with this.
        settings: What the operator has decided.
        tell: Called with each standing that has changed.
        now_ms: The time of day, in Unix ms.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        tell: Callable[[Standing], None],
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.left: Final = ledger.left
        """What the process before has left, which was released."""
        self._ledger: Final = ledger
        self._now_ms: Final = now_ms
        self._books: Final = Books(ledger.sums, now_ms)
        self._standings: Final = Standings(self._books.settled, tell)
        self._open: Final[dict[int, _Open]] = {}
        self._lapsed: Final[dict[int, _Open]] = {}
        self._owed: Final[deque[_Owed]] = deque()
        self._next = ledger.next_reservation
        self._settings = settings
        self._card = RateCard(settings.billing)

    # What is decided about it.

    def configure(self, settings: Settings) -> None:
        """Go by other settings; calls under way are priced as they were let in."""
        self._settings = settings
        self._card = RateCard(settings.billing)

    def limit(self, tenant: str, quota: Quota) -> None:
        """Take what a tenant may spend from here on."""
        self._standings.limit(tenant, quota)
        now = self._turned()
        self._standings.look(tenant, now)

    def forget(self, tenant: str) -> None:
        """The tenant was deleted: it may spend nothing any more. Its rows stay."""
        self._standings.forget(tenant)

    # What is asked.

    def standings(self, tenants: Iterable[str]) -> tuple[Standing, ...]:
        """Give how those of some tenants stand that are blocked or warned."""
        now = self._turned()
        standings = (self._standings.of(tenant, now) for tenant in tenants)
        return tuple(each for each in standings if each.blocked or each.warned)

    def uses(self, tenant: str) -> tuple[Use, ...]:
        """Give what a tenant uses of each of `SPENDING` and of `concurrentRuns`, with its limits.

        Raises:
            GatewayError: UNAVAILABLE: the ledger cannot be read.
        """
        now = self._now_ms()
        self._turn(now)
        return self._books.uses(tenant, self._standings.quota(tenant) or NO_QUOTA, now)

    # supervisor.egress.till.Till

    async def reserve(self, tenant: str, purpose: Purpose, estimate: Estimate) -> Reservation:
        """See `Till`."""
        now = self._now_ms()
        opened = self._let_in(tenant, purpose, estimate, now)
        reservation = opened.reservation
        reserved = Reserved(
            id=reservation.id,
            tenant=tenant,
            kind=purpose.kind,
            provider=purpose.provider,
            model=purpose.model_id,
            at=now,
            lease_until=opened.lease_until,
            tokens=opened.tokens,
            cost_micro_usd=opened.cost,
        )
        try:
            await self._ledger.write(partial(writing.keep, reserved=reserved))
        except BaseException:  # refused, or nobody waits for it any more
            await self.release(reservation)
            raise
        return reservation

    def _let_in(self, tenant: str, purpose: Purpose, estimate: Estimate, now: int) -> _Open:
        """Decide, without a wait, and set aside."""
        quota = self._standings.quota(tenant)
        if quota is None or self._owed:
            message = "what the tenant may spend is not known yet; try again"
            if self._owed:
                message = "the ledger cannot be written, so nothing can be spent; try again"
            raise GatewayError(ErrorCode.UNAVAILABLE, message, retryAfterMs=1000)
        card, books = self._card, self._books
        if not purpose.own_key:
            card.check(purpose.model_id)
        if books.calls(tenant) >= self._settings.concurrent:
            message = f"{self._settings.concurrent} model calls of the tenant are under way already"
            raise GatewayError(ErrorCode.RATE_LIMITED, message, retryAfterMs=1000)
        self._turn(now)
        dearest = (0, 0) if purpose.own_key else card.dearest(purpose.model_id)
        try:
            estimate = books.fit(tenant, quota, estimate, dearest, now)
        except GatewayError:
            for metric in books.over(tenant, quota, estimate, dearest):
                self._standings.end(tenant, metric, now)
            raise
        tokens = estimate.input_tokens + estimate.output_tokens
        cost = (
            0
            if purpose.own_key
            else card.most(purpose.model_id, estimate.input_tokens, estimate.output_tokens)
        )
        reservation = Reservation(self._next, tenant, purpose, estimate)
        self._next += 1
        lease_ms = round(self._settings.total_seconds * 1000) + LEASE_SPARE_MS
        opened = _Open(reservation, card, tokens, cost, now + lease_ms)
        self._open[reservation.id] = opened
        books.hold(tenant, tokens, cost)
        return opened

    async def settle(
        self,
        reservation: Reservation,
        spent: Spent | None,
        *,
        answered: int = 0,
        tool_calls: int = 0,
        request_id: str = "",
    ) -> Charge:
        """See `Till`. A second settlement of the same reservation is a mistake of ours.

        Raises:
            GatewayError: UNAVAILABLE: the disk refuses the row. It is kept here until it does not,
                and nobody spends meanwhile.
        """
        opened = self._end(reservation)
        estimated = spent is None or not _can_be(spent)
        if estimated or spent is None:
            spent = guess(reservation.estimate, answered)
        purpose = reservation.purpose
        cost = 0 if purpose.own_key else opened.card.cost(purpose.model_id, spent)
        row = Row(
            at=self._now_ms(),
            tenant=reservation.tenant,
            kind=purpose.kind,
            provider=purpose.provider,
            model=purpose.model_id,
            input_tokens=spent.input,
            cache_read_tokens=spent.cache_read,
            cache_write_tokens=spent.cache_write,
            output_tokens=spent.output,
            reasoning_tokens=spent.reasoning,
            tool_calls=tool_calls,
            wall_ms=0,
            cpu_ms=0,
            bytes=0,
            cost_micro_usd=cost,
            estimated=estimated,
            own_key=purpose.own_key,
            request_id=_plain(request_id),
            run_id=purpose.run_id,
            session_key=purpose.session_key,
            reservation=reservation.id,
        )
        done = self._charge(row, opened.card, spent.total)
        try:
            async with asyncio.timeout(OWED_SECONDS):
                await done  # whoever waits may go, the row stays
        except TimeoutError as error:
            message = "the ledger cannot be written; the call is charged when it can"
            raise GatewayError(ErrorCode.UNAVAILABLE, message, retryAfterMs=1000) from error
        return Charge(cost, spent, estimated)

    def _end(self, reservation: Reservation) -> _Open:
        opened = self._open.pop(reservation.id, None)
        if opened is None:
            # Its lease has ended before the call has: what it has cost counts nevertheless.
            return self._lapsed.pop(reservation.id)
        self._books.let_go(reservation.tenant, opened.tokens, opened.cost)
        return opened

    async def release(self, reservation: Reservation) -> None:
        """See `Till`. It is given back at once; one that has ended stays ended."""
        opened = self._open.get(reservation.id)
        if opened is None:
            self._lapsed.pop(reservation.id, None)
            return
        self._end(reservation)
        self._drop(reservation.id)

    def _drop(self, reservation: int) -> None:
        # Nobody waits for it: what the disk refuses to forget is forgotten at the next start.
        with suppress(GatewayError):
            dropped = self._ledger.submit(partial(writing.drop, reservation=reservation))
            dropped.add_done_callback(_heard)

    # What costs without a reservation.

    def ran(self, ran: Ran) -> None:
        """Charge a sandbox that has ended, for its seconds."""
        cost = self._card.sandbox_cost(ran.wall_ms)
        self._charge_for(
            ran.tenant,
            "sandbox",
            ran.mode,
            request_id=ran.sandbox_id,
            wall_ms=ran.wall_ms,
            cpu_ms=ran.cpu_ms,
            cost=cost,
        )

    def moved(self, tenant: str, what: str, moved: int, *, run_id: str | None = None) -> None:
        """Charge bytes that went through here, both ways.

        Args:
            tenant: Whose.
            what: `fetch` or `sandbox`.
            moved: How many bytes.
            run_id: For which run, where that is known.
        """
        cost = self._card.traffic_cost(moved)
        self._charge_for(tenant, "egress", what, moved=moved, cost=cost, run_id=run_id)

    def _charge_for(  # noqa: PLR0913 - a row has so many
        self,
        tenant: str,
        kind: Kind,
        provider: str,
        *,
        cost: int,
        request_id: str = "",
        run_id: str | None = None,
        wall_ms: int = 0,
        cpu_ms: int = 0,
        moved: int = 0,
    ) -> None:
        row = Row(
            at=self._now_ms(),
            tenant=tenant,
            kind=kind,
            provider=provider,
            model="",
            input_tokens=0,
            cache_read_tokens=0,
            cache_write_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
            tool_calls=0,
            wall_ms=wall_ms,
            cpu_ms=cpu_ms,
            bytes=moved,
            cost_micro_usd=cost,
            estimated=False,
            own_key=False,
            request_id=request_id,
            run_id=run_id,
            session_key=None,
            reservation=None,
        )
        self._charge(row, self._card, 0)

    def _charge(self, row: Row, card: RateCard, tokens: int) -> asyncio.Future[None]:
        """Count a row at once, and have it written, however long that takes."""
        with suppress(GatewayError):  # then it counts in the windows before
            self._turn(row.at)
        self._books.settle(row.tenant, tokens, row.cost_micro_usd)
        self._standings.look(row.tenant, row.at)
        owed = _Owed(row, card, asyncio.get_running_loop().create_future())
        self._write(owed)
        return owed.done

    def _write(self, owed: _Owed) -> None:
        card = owed.card
        operation = partial(writing.add, row=owed.row, version=card.version, text=card.text)
        try:
            written = self._ledger.submit(operation)
        except GatewayError:
            self._owe(owed)
            return
        written.add_done_callback(partial(self._on_written, owed))

    def _on_written(self, owed: _Owed, written: asyncio.Future[None]) -> None:
        error = None if written.cancelled() else written.exception()
        if error is None:
            if not owed.done.done():
                owed.done.set_result(None)
        elif isinstance(error, GatewayError):
            self._owe(owed)
        elif not owed.done.done():
            owed.done.set_exception(error)

    def _owe(self, owed: _Owed) -> None:
        if len(self._owed) < OWED_MAX:
            self._owed.append(owed)

    # What comes with time.

    async def keep_looking(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Do what is due: windows that have ended, leases, rows that the disk has refused."""
        now = self._turned()
        for opened in [each for each in self._open.values() if each.lease_until <= now]:
            self._end(opened.reservation)
            self._lapsed[opened.reservation.id] = opened
            self._drop(opened.reservation.id)
        owed = list(self._owed)
        self._owed.clear()
        for each in owed:
            self._write(each)

    def _turned(self) -> int:
        """Give the time, with the windows that it is in."""
        now = self._now_ms()
        with suppress(GatewayError):  # the next look tries again
            self._turn(now)
        return now

    def _turn(self, now: int) -> None:
        if self._books.turn(now):
            self._standings.look_at_all(now)

    def close(self) -> None:
        """Write what was settled, with what the disk has refused till now, and close; blocks."""
        for owed in list(self._owed):
            self._write(owed)
        self._ledger.close()


async def open_till(
    settings: Settings, tell: Callable[[Standing], None], now_ms: Callable[[], int] = unix_ms
) -> LedgerTill:
    """Open the ledger of `settings`, and the till over it. Arguments as of `LedgerTill`.

    Raises:
        LedgerError: see `supervisor.egress.ledger.open_ledger`.
    """
    ledger = await open_ledger(Path(settings.ledger_directory))
    try:
        return LedgerTill(ledger, settings, tell, now_ms)
    except BaseException:
        ledger.close()
        raise


def guess(estimate: Estimate, answered: int) -> Spent:
    """Say what a call has spent of which the provider has said nothing.

    Args:
        estimate: What it was let in with: a token for each byte of the prompt.
        answered: Bytes of the answer.
    """
    tokens_in = -(-estimate.input_tokens // BYTES_PER_TOKEN)
    tokens_out = min(-(-answered // BYTES_PER_TOKEN), estimate.output_tokens)
    return Spent(input=tokens_in, output=tokens_out)


def _plain(text: str) -> str:
    """Give what a provider has sent so that it can be kept and shown."""
    return "".join(each for each in text[:REQUEST_ID_CHARS_MAX] if " " <= each <= "~")


def _can_be(spent: Spent) -> bool:
    classes = (spent.input, spent.cache_read, spent.cache_write, spent.output, spent.reasoning)
    # Some that count nothing report zeros: there is no call without a token.
    return all(0 <= tokens <= TOKENS_MAX for tokens in classes) and any(classes)


def _heard(future: "asyncio.Future[None]") -> None:
    """Take note of an error, so that nobody is told that nobody did."""
    if not future.cancelled():
        future.exception()

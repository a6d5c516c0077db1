"""What must hold of the ledger, looked at row by row: what `openclaw billing reconcile` says.

Everything is read in one transaction, so that a gateway may run meanwhile.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

import apsw
import msgspec

from protocol.models import Spent
from supervisor.egress.ledger_schema import GROUPED
from supervisor.egress.rates import RateCard
from supervisor.ledger_reading import differing_totals, rows

FINDINGS_MAX: Final = 100
"""So many are named; all are counted."""
_COLUMNS: Final = (
    "entries.id, entries.kind, entries.model, entries.own_key, entries.wall_ms, entries.bytes, "
    "entries.cost_micro_usd, cards.version, entries.input_tokens, entries.cache_read_tokens, "
    "entries.cache_write_tokens, entries.output_tokens, entries.reasoning_tokens"
)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and what was found.

    `open_reservations` are of calls under way; without a gateway, of calls that were when it was
    killed: its next start releases them. `findings` names the first `FINDINGS_MAX`, a line each.
    """

    entries: int
    cost_micro_usd: int
    open_reservations: int
    found: int
    findings: tuple[str, ...]


def reconcile(db: apsw.Connection, now_ms: int) -> Reconciled:
    """Look whether all holds.

    Args:
        db: From `supervisor.ledger_reading.open_ledger`.
        now_ms: Unix ms, for leases.

    Raises:
        apsw.Error: it cannot be read any further, damaged as it is.
    """
    with db:
        found, findings = 0, []
        for finding in _findings(db, now_ms):
            found += 1
            if found <= FINDINGS_MAX:
                findings.append(finding)
        count, cost = db.execute("SELECT count(*), total(cost_micro_usd) FROM entries").get
        reservations = db.execute("SELECT count(*) FROM reservations").get
    return Reconciled(
        entries=count,
        cost_micro_usd=int(cost),
        open_reservations=reservations,
        found=found,
        findings=tuple(findings),
    )


def _findings(db: apsw.Connection, now_ms: int) -> Iterator[str]:
    damage = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
    yield from (f"the file is damaged: {text}" for text in damage)
    if damage:
        return
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield f"{table}: row {row} names what is not in {parent}"
    yield from _triggers(db)
    yield from _gaps(db)
    yield from _prices(db)
    for total in differing_totals(db):
        names = ", ".join(f"{name} {value}" for name, value in zip(GROUPED, total, strict=True))
        yield f"totals: not what the rows come to: {names}"
    for number, tenant in db.execute(
        "SELECT id, tenant FROM reservations WHERE lease_until < ? ORDER BY id", (now_ms,)
    ):
        yield f"reservations: {number} of {tenant} has outlived its lease"


def _triggers(db: apsw.Connection) -> Iterator[str]:
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='trigger'")}
    for name in ("entries_are_kept", "entries_are_final", "cards_are_kept", "cards_are_final"):
        if name not in there:
            yield f"schema: the trigger {name} is not there"


def _gaps(db: apsw.Connection) -> Iterator[str]:
    for number, before in db.execute(
        "SELECT id, before FROM (SELECT id, lag(id, 1, 0) OVER (ORDER BY id) AS before FROM "
        "entries) WHERE id != before + 1"
    ):
        yield f"entries: between {before} and {number} some are missing"


def _prices(db: apsw.Connection) -> Iterator[str]:
    cards: dict[str, RateCard] = {}
    for version, text in db.execute("SELECT version, body FROM cards ORDER BY id"):
        if hashlib.sha256(text.encode()).hexdigest() != version:
            yield f"cards: {version} says something else than it did"
        try:
            cards[version] = RateCard.parse(text)
        except (msgspec.DecodeError, RecursionError):
            yield f"cards: {version} cannot be read"
    for number, kind, model, own_key, wall_ms, moved, cost, version, *spent in rows(db, _COLUMNS):
        card = cards.get(version)
        if card is None:
            continue  # said already
        match kind:
            case "sandbox":
                right = card.sandbox_cost(wall_ms)
            case "egress":
                right = card.traffic_cost(moved)
            case _:
                right = 0 if own_key else card.cost(model, _spent(*spent))
        if cost != right:
            yield f"entries: {number} costs {cost} micro-USD, by its card {right}"


def _spent(input_: int, cache_read: int, cache_write: int, output: int, reasoning: int) -> Spent:
    return Spent(
        input=input_,
        cache_read=cache_read,
        cache_write=cache_write,
        output=output,
        reasoning=reasoning,
    )

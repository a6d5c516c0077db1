"""What a gateway has acknowledged, and whether its state root still holds it.

The check reads the files themselves, not what a gateway says of them: it is the same whether the
gateway runs, was killed, or its machine was.
"""

import contextlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apsw
import msgspec

from protocol.control.shapes import AuditEntry
from protocol.names import digest
from supervisor.audit import GENESIS, entry_hash

SESSIONS = "sessions/sessions.sqlite"
What = Literal["session", "turn", "reply", "created", "rotated", "deleted"]
OF_TENANTS = ("created", "rotated", "deleted")


class Ack(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """One answer that promised something. `by` is the client, which does one thing at a time."""

    what: What
    by: str
    tenant: str
    key: str = ""
    text: str = ""
    run: str = ""
    token: str = ""

    def line(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


def read_acks(lines: Iterable[bytes]) -> list[Ack]:
    """Give what `Ack.line` wrote; a torn last line was not acknowledged."""
    return [msgspec.json.decode(line, type=Ack) for line in lines if line.endswith(b"\n")]


class Ledger:
    """Takes down acknowledgements, from any thread.

    Args:
        tell: Told of each as well, in their order.
    """

    def __init__(self, tell: Callable[[Ack], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._tell = tell
        self.acks: list[Ack] = []
        self.broken: list[str] = []
        """What a client saw that must never be seen."""

    def add(self, ack: Ack) -> None:
        with self._lock:
            self.acks.append(ack)
            if self._tell is not None:
                self._tell(ack)

    def blame(self, what: str) -> None:
        with self._lock:
            self.broken.append(what)


class _Stored(NamedTuple):
    """What a tenant's store holds: sessions by key, users' messages by text, replies by run."""

    sessions: set[str]
    said: dict[str, list[tuple[str, str]]]
    replies: Counter[str]
    open_turns: int


def check(root: Path, acks: list[Ack]) -> list[str]:
    """Say what is not as it was acknowledged; nothing if all is well."""
    try:
        broken = [*check_databases(root), *check_audit(root / "audit.jsonl")]
        if not broken:
            broken = [*_check_tenants(root, acks), *_check_sessions(root, acks)]
    except (apsw.Error, OSError, msgspec.DecodeError) as error:
        broken = [f"cannot be read: {error!r}"]
    return broken


def databases(root: Path) -> list[Path]:
    return sorted(root.rglob("*.sqlite"))


def check_databases(root: Path) -> Iterator[str]:
    for path in databases(root):
        with _opened(path) as connection:
            for pragma in ("integrity_check", "foreign_key_check"):
                rows = connection.execute(f"PRAGMA {pragma}").fetchall()
                if rows not in ([], [("ok",)]):
                    yield f"{path.relative_to(root)}: {pragma}: {rows[:3]}"


def check_audit(path: Path) -> Iterator[str]:
    """Check the chain of hashes, line by line."""
    previous = GENESIS
    for seq, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            yield f"audit: line {seq} is torn"
            return
        entry = msgspec.json.decode(line, type=AuditEntry)
        if (entry.seq, entry.hash) != (seq, entry_hash(previous, entry)):
            yield f"audit: the chain breaks at line {seq}"
            return
        previous = entry.hash


def open_turns(root: Path, tenant: str) -> int:
    """Give how many turns run or wait."""
    return _stored(root, tenant).open_turns


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    with contextlib.closing(connection):
        connection.set_busy_timeout(5000)
        yield connection


def _stored(root: Path, tenant: str) -> _Stored:
    path = root / "tenants" / tenant / SESSIONS
    if not path.exists():
        return _Stored(set(), {}, Counter(), 0)
    said: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with _opened(path) as connection, connection:  # one snapshot
        sessions = {key for (key,) in connection.execute("SELECT key FROM sessions")}
        for text, run, key in connection.execute(
            "SELECT json_extract(m.content, '$[0].text'), r.id, s.key FROM messages AS m"
            " JOIN runs AS r ON r.seq = m.run JOIN sessions AS s ON s.id = m.session"
            " WHERE m.role = 'user'"
        ):
            said[text].append((run, key))
        replies = Counter(
            run
            for (run,) in connection.execute(
                "SELECT r.id FROM messages AS m JOIN runs AS r ON r.seq = m.run"
                " WHERE m.role = 'assistant'"
            )
        )
        unended = "SELECT count(*) FROM runs WHERE state IN ('running', 'queued')"
        open_turns: int = connection.execute(unended).get
    return _Stored(sessions, said, replies, open_turns)


def _check_tenants(root: Path, acks: list[Ack]) -> Iterator[str]:
    with _opened(root / "registry.sqlite") as connection:
        rows: Iterable[Any] = connection.execute("SELECT id, state FROM tenants")
        states: dict[str, str] = dict(rows)
        tokens = defaultdict(set)
        for tenant, found in connection.execute("SELECT tenant, digest FROM tokens"):
            tokens[tenant].add(found)
    last: dict[str, Ack] = {}
    touched: dict[str, str] = {}
    done: Counter[tuple[str, str]] = Counter()
    for ack in acks:
        if ack.what in OF_TENANTS:
            last[ack.tenant] = ack
            touched[ack.by] = ack.tenant
            done[ack.what, ack.tenant] += 1
    for tenant, ack in last.items():
        if ack.what == "deleted":
            if tenant in states or (root / "tenants" / tenant).exists():
                yield f"{tenant} was deleted, and is there"
        elif tenant != touched[ack.by]:  # else its client may have gone one step further
            if states.get(tenant) != "enabled":
                yield f"{tenant} was made, and is {states.get(tenant, 'gone')}"
            elif digest(ack.token) not in tokens[tenant]:
                yield f"{tenant}: the newest token is not in the registry"
            elif len(tokens[tenant]) != 1:
                yield f"{tenant}: {len(tokens[tenant])} tokens, and each rotation leaves one"
    yield from _check_notes(root, done)


def _check_notes(root: Path, done: Counter[tuple[str, str]]) -> Iterator[str]:
    noted: Counter[tuple[str, str]] = Counter()
    names = {"tenant.created": "created", "token.rotated": "rotated", "tenant.deleted": "deleted"}
    for line in (root / "audit.jsonl").read_bytes().splitlines():
        entry = msgspec.json.decode(line, type=AuditEntry)
        if entry.action in names and entry.tenant is not None:
            noted[names[entry.action], entry.tenant] += 1
    for (what, tenant), count in done.items():
        if noted[what, tenant] < count:
            yield f"{tenant} was {what} {count} times; the audit has {noted[what, tenant]}"


def _check_sessions(root: Path, acks: list[Ack]) -> Iterator[str]:
    kept = sorted(path.name for path in (root / "tenants").iterdir())
    # A tenant's files go with it. The newest of each client may just have gone, unacknowledged.
    touched = {ack.by: ack.tenant for ack in acks if ack.what in OF_TENANTS}
    gone = {ack.tenant for ack in acks if ack.what == "deleted"} | set(touched.values())
    stores = {tenant: _stored(root, tenant) for tenant in kept}
    for tenant, store in stores.items():
        for text, turns in store.said.items():
            if len(turns) > 1:
                yield f"{tenant}: {text!r} made {len(turns)} turns"
        for run, count in store.replies.items():
            if count > 1:
                yield f"{tenant}: the turn {run} has {count} replies"
    for ack in acks:
        if ack.tenant not in stores:
            if ack.tenant not in gone:
                yield f"{ack.tenant}: its directory is gone"
        elif problem := _missing(stores[ack.tenant], ack):
            yield f"{ack.tenant}: {ack.by}: {problem}"


def _missing(store: _Stored, ack: Ack) -> str | None:
    match ack.what:
        case "session" if ack.key not in store.sessions:
            return f"the session {ack.key} is gone"
        case "turn" | "reply" if store.said.get(ack.text) != [(ack.run, ack.key)]:
            return f"the message {ack.text!r} is {store.said.get(ack.text, 'gone')}"
        case "reply" if not store.replies[ack.run]:
            return f"the reply to {ack.text!r} is gone"
    return None

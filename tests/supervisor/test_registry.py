import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from protocol.control.shapes import TenantLimits
from protocol.methods import ALL_SCOPES
from protocol.names import digest
from protocol.quotas import Quota
from protocol.spawn import TokenGrant
from supervisor.registry import (
    Registry,
    RegistryError,
    TenantExistsError,
    UnknownTenantError,
)
from supervisor.registry_schema import SCHEMA_VERSION
from tests.supervisor.scripts import line_of, running

FIRST, COUNT = 70_000, 5

CREATE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from protocol.quotas import Quota
from supervisor.registry import Registry
registry = Registry(Path(sys.argv[1]))
for number in itertools.count():
    registry.next_epoch()
    token = registry.create(f"t{number}", uid_first=70000, uid_count=10**6, display_name=None,
                            quota=Quota(), now_ms=number)
    if number % 3 == 1:
        with registry.atomically():
            (old,) = registry.tokens(f"t{number}")
            registry.remove_token(old.id)
            token = registry.add_token(f"t{number}", "new", 1, now_ms=1, expires_at=None).secret
    if number % 3 == 2:
        registry.begin_delete(f"t{number}")
        registry.finish_delete(f"t{number}")
    print(number, token, flush=True)
"""

STOP_HALFWAY = """
import sys
from pathlib import Path
from protocol.quotas import Quota
from supervisor.registry import Registry
registry = Registry(Path(sys.argv[1]))
with registry.atomically():
    registry.create("half", uid_first=70000, uid_count=5, display_name=None, quota=Quota(),
                    now_ms=0)
    registry.add_token("whole", "new", 1, now_ms=1, expires_at=None)
    print("halfway", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    registry = Registry(path)
    yield registry
    registry.close()


def create(registry: Registry, tenant: str, uid_first: int | None = FIRST) -> str:
    return registry.create(
        tenant,
        uid_first=uid_first,
        uid_count=COUNT,
        display_name=None,
        quota=Quota(),
        now_ms=1,
    )


def delete(registry: Registry, tenant: str) -> None:
    registry.begin_delete(tenant)
    registry.finish_delete(tenant)


def add(registry: Registry, tenant: str, name: str) -> str:
    return registry.add_token(tenant, name, 1, now_ms=2, expires_at=None).secret


def uid_of(registry: Registry, tenant: str) -> int | None:
    return registry.get(tenant).uid


def stored_bytes(path: Path) -> bytes:
    """Whatever SQLite keeps: database, write-ahead log, its index."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


# --- tenants


def test_what_is_created_is_found_again(path: Path) -> None:
    registry = Registry(path)
    quota = Quota(tokens_per_day=0, cost_per_day_micro_usd=2**53)
    name = 'Ä "quoted" \'; DROP TABLE tenants; -- 🦀'
    limits = TenantLimits(memory_bytes=2**26, cpus=0.25, disk_bytes="unlimited")
    token = registry.create(
        "acme",
        uid_first=FIRST,
        uid_count=COUNT,
        display_name=name,
        quota=quota,
        limits=limits,
        now_ms=42,
    )
    registry.close()
    registry = Registry(path)
    row = registry.get("acme")
    assert (row.id, row.uid, row.display_name) == ("acme", FIRST, name)
    assert (row.state, row.created_at, row.quota) == ("enabled", 42, quota)
    assert row.limits == limits
    assert registry.tenants() == [row]
    (kept,) = registry.tokens("acme")
    grant = TokenGrant(id=kept.id, scopes=int(ALL_SCOPES))
    assert registry.tokens_of("acme") == {digest(token).hex(): grant}
    assert registry.token_digests() == {"acme": registry.tokens_of("acme")}
    registry.close()


def test_an_id_is_taken_once(registry: Registry) -> None:
    create(registry, "acme")
    before = registry.token_digests()
    with pytest.raises(TenantExistsError):
        create(registry, "acme")
    assert registry.token_digests() == before
    create(registry, "next")
    assert uid_of(registry, "next") == FIRST + 1, "the refused one has cost a uid"


def test_who_is_not_there_is_unknown(registry: Registry) -> None:
    assert registry.find("acme") is None
    for act in (registry.get, registry.begin_delete):
        with pytest.raises(UnknownTenantError):
            act("acme")
    assert registry.token_digests() == {}
    assert registry.tokens("acme") == []
    registry.finish_delete("acme")


def test_tenants_are_listed_by_id(registry: Registry) -> None:
    for tenant in ("b", "a-2", "a", "a-10"):
        create(registry, tenant)
    assert [row.id for row in registry.tenants()] == ["a", "a-10", "a-2", "b"]


def test_a_user_gives_no_uids(registry: Registry) -> None:
    create(registry, "a", uid_first=None)
    create(registry, "b", uid_first=None)
    assert (uid_of(registry, "a"), uid_of(registry, "b")) == (None, None)


# --- uids


def test_a_uid_is_never_given_twice(path: Path) -> None:
    registry = Registry(path)
    create(registry, "a")
    create(registry, "b")
    delete(registry, "b")
    create(registry, "b")
    assert uid_of(registry, "b") == FIRST + 2
    delete(registry, "a")
    delete(registry, "b")
    registry.close()
    registry = Registry(path)
    create(registry, "c")
    assert uid_of(registry, "c") == FIRST + 3
    registry.close()


def test_a_range_that_is_used_up_stays_used_up(registry: Registry) -> None:
    for number in range(COUNT):
        create(registry, f"t{number}")
    for _ in range(2):
        with pytest.raises(RegistryError, match=f"{FIRST}..{FIRST + COUNT - 1} is used up"):
            create(registry, "one-more")
        assert registry.find("one-more") is None
        delete(registry, f"t{_}")
    assert sorted(row.uid or 0 for row in registry.tenants()) == list(
        range(FIRST + 2, FIRST + COUNT)
    )


def test_a_range_that_moves_never_gives_an_old_uid(registry: Registry) -> None:
    create(registry, "a")
    create(registry, "higher", uid_first=FIRST + 2)
    assert uid_of(registry, "higher") == FIRST + 2
    delete(registry, "higher")
    create(registry, "back")
    assert uid_of(registry, "back") == FIRST + 3


def test_the_uids_that_were_given_are_remembered(registry: Registry) -> None:
    assert not registry.uids_given()
    create(registry, "a")
    create(registry, "b", uid_first=FIRST + 5)
    for tenant in ("a", "b"):
        delete(registry, tenant)
    assert registry.uids_given() == range(FIRST, FIRST + 6)


# --- tokens


def test_tokens_are_kept_as_digests_alone(path: Path) -> None:
    registry = Registry(path)
    tokens = [create(registry, "acme"), add(registry, "acme", "second"), create(registry, "b")]
    for stage in ("open", "closed"):
        if stage == "closed":
            registry.close()
        kept = stored_bytes(path)
        for token in tokens:
            secret = token.rpartition("_")[2]
            assert re.fullmatch("[0-9a-f]{32}", secret)
            assert secret.encode() not in kept
            assert bytes.fromhex(secret) not in kept
        assert digest(tokens[1]) in kept
        assert digest(tokens[2]) in kept


def test_a_token_is_removed_alone_and_leaves_no_trace(path: Path, registry: Registry) -> None:
    first = create(registry, "acme")
    second, other = add(registry, "acme", "second"), create(registry, "b")
    registry.remove_token(registry.tokens("acme")[0].id)
    assert set(registry.tokens_of("acme")) == {digest(second).hex()}
    assert set(registry.tokens_of("b")) == {digest(other).hex()}
    registry.close()
    assert digest(first) not in stored_bytes(path)
    assert digest(second) in stored_bytes(path)


def test_an_end_is_only_ever_moved_forward(registry: Registry) -> None:
    create(registry, "acme")
    (token,) = registry.tokens("acme")
    for at_ms, ends_at in ((500, 500), (900, 500), (200, 200)):
        registry.end_token(token.id, at_ms)
        (kept,) = registry.tokens("acme")
        assert kept.expires_at == ends_at
    assert [kept.expired(now_ms) for now_ms in (199, 200)] == [False, True]


def test_a_tenant_being_deleted_has_no_tokens(registry: Registry) -> None:
    create(registry, "acme")
    registry.begin_delete("acme")
    assert registry.get("acme").state == "deleting"
    assert registry.token_digests() == {}
    assert registry.tokens("acme") == []
    registry.finish_delete("acme")
    assert registry.tenants() == []


# --- the file


def test_the_file_is_its_owners_alone(path: Path, registry: Registry) -> None:
    create(registry, "acme")
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Registry(path).close()
    db = apsw.Connection(str(path))
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=f"schema {SCHEMA_VERSION + 1}; this version knows"):
        Registry(path)
    assert path.read_bytes() == before


FIRST_SCHEMA = """
CREATE TABLE tenants (id TEXT PRIMARY KEY, uid INTEGER UNIQUE, display_name TEXT,
    state TEXT NOT NULL CHECK (state IN ('enabled', 'suspended', 'deleting')),
    created_at INTEGER NOT NULL, quota TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (digest BLOB PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    scopes INTEGER NOT NULL, created_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_tenant ON tokens (tenant);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO tenants VALUES ('acme', NULL, 'Acme', 'enabled', 5, '{"tokensPerDay":1}');
INSERT INTO tokens VALUES (x'aa11', 'acme', 7, 6);
INSERT INTO counters VALUES ('epoch', 41);
PRAGMA user_version=1;
"""


def test_an_older_schema_is_copied_and_brought_up(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute(FIRST_SCHEMA)
    db.close()
    registry = Registry(path)
    (token,) = registry.tokens("acme")
    assert (token.name, token.scopes, token.created_at, token.expires_at) == ("default", 7, 6, None)
    assert registry.tokens_of("acme") == {"aa11": TokenGrant(id=token.id, scopes=7)}
    assert registry.get("acme").quota == Quota(tokens_per_day=1)
    assert registry.get("acme").limits == TenantLimits()
    assert registry.next_epoch() == 42
    copy = path.with_name("registry.sqlite.before-v2")
    old = apsw.Connection(str(copy))
    assert old.execute("SELECT tenant, scopes FROM tokens").fetchall() == [("acme", 7)]
    assert old.pragma("user_version") == 1
    old.close()
    assert copy.stat().st_mode & 0o777 == 0o600
    registry.close()
    Registry(path).close()
    assert copy.exists()
    registry = Registry(path)
    registry.drop_copies()
    assert [file.name for file in path.parent.glob("*before*")] == []
    registry.close()


def test_what_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RegistryError, match=f"^{path} cannot be opened"):
        Registry(path)
    assert path.read_bytes() == b"no database" * 1000


def test_what_cannot_be_opened_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(RegistryError, match=f"^{path} cannot be opened"):
        Registry(path)


def test_epochs_only_grow(path: Path) -> None:
    seen = []
    for _ in range(3):
        registry = Registry(path)
        seen += [registry.next_epoch(), registry.next_epoch()]
        registry.close()
    assert seen == [1, 2, 3, 4, 5, 6]


# --- crashes


@pytest.mark.parametrize("lines", [10, 31, 62])
def test_what_was_acknowledged_survives_a_kill(path: Path, lines: int) -> None:
    with running(CREATE_FOR_EVER, path) as process:
        said = [line_of(process) for _ in range(lines)]
        process.kill()
        assert process.stdout is not None
        rest = process.stdout.read()
    # What was written while it was killed; the last piece may be half a line.
    said += rest.split("\n")[:-1]
    acknowledged = {int(line.split()[0]): line.split()[1] for line in said}
    registry = Registry(path)
    for number, token in acknowledged.items():
        if number % 3 == 2:
            assert registry.find(f"t{number}") is None
        else:
            assert set(registry.tokens_of(f"t{number}")) == {digest(token).hex()}
    uids = [row.uid for row in registry.tenants()]
    assert len(uids) == len(set(uids))
    assert registry.next_epoch() > max(acknowledged) + 1
    registry.close()


def test_a_change_that_was_cut_off_is_no_change(path: Path) -> None:
    registry = Registry(path)
    token = create(registry, "whole")
    registry.close()
    with running(STOP_HALFWAY, path) as process:
        assert line_of(process) == "halfway"
        process.kill()
        process.wait()
    registry = Registry(path)
    assert [row.id for row in registry.tenants()] == ["whole"]
    assert set(registry.tokens_of("whole")) == {digest(token).hex()}
    create(registry, "next")
    assert uid_of(registry, "next") == FIRST + 1
    registry.close()


def test_a_change_that_raises_is_no_change(registry: Registry) -> None:
    create(registry, "taken")

    def both() -> None:
        with registry.atomically():
            create(registry, "acme")
            create(registry, "taken")

    with pytest.raises(TenantExistsError):
        both()
    assert registry.find("acme") is None
    create(registry, "acme")
    assert uid_of(registry, "acme") == FIRST + 1

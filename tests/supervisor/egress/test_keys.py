"""Keys that tenants bring, as they lie on the disk."""

import os
import stat
from pathlib import Path

import apsw
import pytest

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.keys import KeysError, OwnKeys

KEY = "sk-CANARY-0123456789abcdef"


def test_a_key_opens_for_its_tenant_and_provider_also_after_a_restart(state_dir: Path) -> None:
    keys = OwnKeys(state_dir)
    assert keys.key("acme", "openai") is None
    assert not list(state_dir.iterdir())
    keys.set("acme", "openai", KEY, 7)
    for found in (keys, OwnKeys(state_dir)):
        assert found.key("acme", "openai") == KEY
        assert found.key("acme", "anthropic") is found.key("globex", "openai") is None
        assert [(each.provider, each.created_at) for each in found.known("acme")] == [("openai", 7)]
        assert found.known("globex") == []
        found.close()


def test_nothing_on_the_disk_has_it_and_all_is_its_owners(state_dir: Path) -> None:
    keys = OwnKeys(state_dir)
    keys.set("acme", "openai", KEY, 7)
    keys.set("acme", "openai", KEY, 8)
    names = {path.name for path in state_dir.iterdir()}
    assert {"seal.key", "keys.sqlite"} <= names
    for path in state_dir.iterdir():
        assert KEY.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    seals = {bytes(row[0]) for row in keys._open().execute("SELECT nonce FROM keys")}
    assert len(seals) == 1
    assert len((state_dir / "seal.key").read_bytes()) == 32
    keys.close()


@pytest.mark.parametrize("column", ["tenant", "provider"])
def test_what_is_moved_to_another_row_does_not_open(state_dir: Path, column: str) -> None:
    keys = OwnKeys(state_dir)
    keys.set("acme", "openai", KEY, 7)
    keys.close()
    db = apsw.Connection(str(state_dir / "keys.sqlite"))
    other = {"tenant": "globex", "provider": "anthropic"}[column]
    db.execute(f"UPDATE keys SET {column} = ?", (other,))
    db.close()
    moved = OwnKeys(state_dir)
    named = {"tenant": "acme", "provider": "openai"} | {column: other}
    with pytest.raises(GatewayError) as refused:
        moved.key(named["tenant"], named["provider"])
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "set it again" in refused.value.message
    moved.close()


@pytest.mark.parametrize("damage", ["flip", "other key", "no key", "short key"])
def test_what_does_not_open_is_never_taken_for_no_key(state_dir: Path, damage: str) -> None:
    keys = OwnKeys(state_dir)
    keys.set("acme", "openai", KEY, 7)
    if damage == "flip":
        sealed = bytes(keys._open().execute("SELECT sealed FROM keys").get)
        flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
        keys._open().execute("UPDATE keys SET sealed = ?", (flipped,))
    keys.close()
    seal = state_dir / "seal.key"
    match damage:
        case "other key":
            seal.write_bytes(os.urandom(32))
        case "no key":
            seal.unlink()
        case "short key":
            seal.write_bytes(b"x")
    found = OwnKeys(state_dir)
    with pytest.raises(GatewayError, match="does not open"):
        found.key("acme", "openai")
    if damage == "no key":  # nor is another minted, which would shut out what is there for good
        with pytest.raises(GatewayError):
            found.set("acme", "anthropic", KEY, 8)
        assert not seal.exists()
    found.close()


def test_deleted_is_gone_from_the_files(state_dir: Path) -> None:
    keys = OwnKeys(state_dir)
    for tenant in ("acme", "globex"):
        for provider in ("openai", "anthropic"):
            keys.set(tenant, provider, KEY, 7)
    sealed = [bytes(row[0]) for row in keys._open().execute("SELECT sealed FROM keys")]
    assert keys.delete("acme", "openai")
    assert not keys.delete("acme", "openai")
    assert keys.providers("acme") == {"anthropic"}
    keys.forget("acme")
    keys.forget("acme")
    assert keys.providers("acme") == frozenset()
    assert keys.providers("globex") == {"openai", "anthropic"}
    files = b"".join(path.read_bytes() for path in state_dir.iterdir())
    assert sum(each in files for each in sealed) == 2
    keys.close()
    assert OwnKeys(state_dir).known("acme") == []


def test_rows_that_are_none_are_named(state_dir: Path) -> None:
    (state_dir / "keys.sqlite").write_bytes(b"no database at all" * 99)
    with pytest.raises(KeysError, match=r"keys\.sqlite"):
        OwnKeys(state_dir)

"""Tokens on the disk: names, ends, rotation with or without an overlap, what the audit says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.control.shapes import CreatedToken, CreateToken, RotateToken
from protocol.errors import ErrorCode, GatewayError
from protocol.names import digest
from protocol.quotas import Quota
from supervisor.config import Config
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(state_dir: Path) -> StateRoot:
    root = StateRoot(state_dir / "state")
    root.prepare()
    return root


@pytest.fixture
def desk(state: StateRoot, clock: Clock) -> Iterator[TenantDesk]:
    desk = TenantDesk(state, Config(), now_ms=clock)
    desk.create("acme", actor="me", quota=Quota())
    yield desk
    desk.close()


def add(desk: TenantDesk, name: str, seconds: int | None = None) -> CreatedToken:
    wanted = CreateToken(name=name, scopes=("read", "write"), expires_in_seconds=seconds)
    return desk.tokens.create("acme", wanted, actor="me")


def rotate(desk: TenantDesk, token_id: str | None = None, overlap: int = 0) -> CreatedToken:
    wanted = RotateToken(token_id=token_id, overlap_seconds=overlap)
    return desk.tokens.rotate("acme", wanted, actor="me")


def names(desk: TenantDesk) -> list[str]:
    return sorted(token.name for token in desk.tokens.list("acme"))


def known(desk: TenantDesk, created: CreatedToken) -> bool:
    return digest(created.token).hex() in desk.registry.tokens_of("acme")


def audited(state: StateRoot) -> list[Any]:
    return [json.loads(line) for line in state.audit.read_text().splitlines()]


def refused(code: ErrorCode) -> "pytest.RaisesExc[GatewayError]":
    return pytest.RaisesExc(GatewayError, check=lambda error: error.code is code)


def test_rotation_replaces_the_name_alone(desk: TenantDesk) -> None:
    ci = add(desk, "ci")
    default = rotate(desk)
    assert (default.name, default.scopes) == ("default", ("read", "write", "admin"))
    assert known(desk, ci)
    new = rotate(desk, ci.token_id)
    assert (new.name, new.scopes) == ("ci", ("read", "write"))
    assert not known(desk, ci)
    assert known(desk, default)
    assert names(desk) == ["ci", "default"]


def test_an_overlap_ends_the_old_one_later(desk: TenantDesk, clock: Clock) -> None:
    old = add(desk, "ci")
    new = rotate(desk, old.token_id, overlap=30)
    ends = {token.token_id: token.expires_at for token in desk.tokens.list("acme")}
    assert ends[old.token_id] == "1970-01-01T00:17:10.000Z"
    assert ends[new.token_id] is None
    # A second rotation without an overlap ends both.
    clock.now_ms += 1000
    third = rotate(desk, new.token_id)
    assert [known(desk, token) for token in (old, new, third)] == [False, False, True]


def test_an_overlap_never_lengthens_a_life(desk: TenantDesk) -> None:
    old = add(desk, "ci", seconds=10)
    rotate(desk, old.token_id, overlap=3600)
    ends = {token.token_id: token.expires_at for token in desk.tokens.list("acme")}
    assert ends[old.token_id] == "1970-01-01T00:16:50.000Z"


def test_a_new_one_lives_as_long_as_the_old_one_was_to(desk: TenantDesk, clock: Clock) -> None:
    old = add(desk, "ci", seconds=10)
    clock.now_ms += 4000
    assert rotate(desk, old.token_id).expires_at == "1970-01-01T00:16:54.000Z"


def test_one_that_has_ended_is_shown_as_such_and_makes_room(
    desk: TenantDesk, state: StateRoot, clock: Clock
) -> None:
    old = add(desk, "ci", seconds=10)
    clock.now_ms += 10_000
    (shown,) = (token for token in desk.tokens.list("acme") if token.name == "ci")
    assert shown.expired
    assert not add(desk, "ci").expired
    assert not known(desk, old)
    line = audited(state)[-2]
    assert (line["action"], line["actor"]) == ("token.expired", "gateway")
    assert line["detail"]["before"]["tokenId"] == old.token_id


def test_a_tenant_has_so_many_and_no_more(desk: TenantDesk) -> None:
    for number in range(limits.TOKENS_PER_TENANT_MAX - 1):
        add(desk, f"t{number}")
    with refused(ErrorCode.CONFLICT) as error:
        add(desk, "one-more")
    assert str(limits.TOKENS_PER_TENANT_MAX) in error.value.message
    with refused(ErrorCode.CONFLICT):
        rotate(desk, overlap=5)
    assert len(desk.tokens.list("acme")) == limits.TOKENS_PER_TENANT_MAX
    rotate(desk)


def test_without_a_default_one_has_to_be_named(desk: TenantDesk) -> None:
    (default,) = desk.tokens.list("acme")
    ci = add(desk, "ci")
    desk.tokens.revoke("acme", default.token_id, actor="me")
    with refused(ErrorCode.NOT_FOUND) as error:
        rotate(desk)
    assert error.value.details == {"field": "tokenId"}
    assert names(desk) == ["ci"]
    assert known(desk, ci)


def test_the_audit_says_before_and_after_without_secrets(
    desk: TenantDesk, state: StateRoot
) -> None:
    created = add(desk, "ci", seconds=60)
    rotated = rotate(desk, created.token_id, overlap=5)
    desk.tokens.revoke("acme", rotated.token_id, actor="you")
    lines = audited(state)[1:]
    assert [(line["action"], line["actor"]) for line in lines] == [
        ("token.created", "me"),
        ("token.rotated", "me"),
        ("token.revoked", "you"),
    ]
    made = {
        "tokenId": created.token_id,
        "name": "ci",
        "scopes": ["read", "write"],
        "expiresAt": 1_060_000,
    }
    assert lines[0]["detail"] == {"after": made}
    assert lines[1]["detail"]["before"] == [made]
    assert lines[1]["detail"]["after"]["tokenId"] == rotated.token_id
    text = state.audit.read_text()
    for token in (created.token, rotated.token):
        assert token not in text
        assert digest(token).hex() not in text

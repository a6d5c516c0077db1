"""The n-th change of the disk fails, for every n, under each thing that is done to tenants.

Registry by way of SQLite, audit and directories by the system calls of the standard library.
"""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from protocol.control.shapes import RotateToken
from protocol.errors import ErrorCode, GatewayError
from protocol.quotas import Quota
from supervisor.config import Config, IsolationSection
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
from tests.chaos.ledger import Ack, check
from tests.workers.faults import FailingVFS, Orders

CONFIG = Config(isolation=IsolationSection(uid_first=1_900_000_000, uid_count=4096))
MANY = 200
CALLS = ("pwrite", "fsync", "ftruncate", "mkdir", "rename", "chown", "rmdir", "unlink")
Act = Callable[[TenantDesk, str, list[Ack]], None]


def create(desk: TenantDesk, tenant: str, acks: list[Ack]) -> None:
    token = desk.create(tenant, actor="me", quota=Quota()).token
    acks.append(Ack("created", "me", tenant, token=token))


def rotate(desk: TenantDesk, tenant: str, acks: list[Ack]) -> None:
    rotated = desk.tokens.rotate(tenant, RotateToken(), actor="me")
    acks.append(Ack("rotated", "me", tenant, token=rotated.token))


def suspend_and_resume(desk: TenantDesk, tenant: str, acks: list[Ack]) -> None:
    desk.set_state(tenant, "suspended", actor="me")
    desk.set_state(tenant, "enabled", actor="me")


def delete(desk: TenantDesk, tenant: str, acks: list[Ack]) -> None:
    desk.begin_delete(tenant, actor="me")
    desk.wipe(tenant)
    desk.finish_delete(tenant, actor="me")
    acks.append(Ack("deleted", "me", tenant))


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orders:
    found = Orders(str(tmp_path / "orders"))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            number = found.number
            try:
                found.check(0)
            except apsw.Error:
                raise OSError(number, os.strerror(number)) from None
            return real(*arguments, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    return found


def settled(desk: TenantDesk, tenant: str, act: Act, acks: list[Ack]) -> None:
    """Do it again, now that the disk is well; it may have been done."""
    try:
        act(desk, tenant, acks)
    except GatewayError as error:
        if error.code not in (ErrorCode.CONFLICT, ErrorCode.NOT_FOUND):
            raise
        if act is create:  # there, but nobody knows its token
            rotate(desk, tenant, acks)
            desk.ensure_directory(desk.access(tenant)[0])  # as before each start of its worker


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("act", [create, rotate, suspend_and_resume, delete])
def test_every_change_fails_in_turn(
    state_dir: Path, orders: Orders, act: Act, number: int, lasting: bool
) -> None:
    state = StateRoot(state_dir)
    state.prepare()
    acks: list[Ack] = []
    refused = 0
    codes: set[ErrorCode] = set()
    with FailingVFS(orders):
        desk = TenantDesk(state, CONFIG)
        try:
            create(desk, "bystander", acks)
            for after in itertools.count(1):
                assert after < MANY
                tenant = f"t{after}"
                if act is not create:
                    create(desk, tenant, acks)
                orders.arm(after, number, lasting=lasting)
                try:
                    act(desk, tenant, acks)
                except GatewayError as error:
                    refused += 1
                    codes.add(error.code)
                    assert desk.get("bystander").state == "enabled"  # reads go on
                if not orders.disarm():
                    break
                settled(desk, tenant, act, acks)
                assert check(state_dir, acks) == []
        finally:
            orders.disarm()
            desk.close()
        again = TenantDesk(state, CONFIG)
        again.recover()
        again.close()
    assert refused > 2
    assert codes == {ErrorCode.UNAVAILABLE}
    assert check(state_dir, acks) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_line_that_can_neither_be_written_nor_undone(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    state = StateRoot(state_dir)
    state.prepare()
    desk = TenantDesk(state, CONFIG)
    acks: list[Ack] = []
    create(desk, "acme", acks)
    write = os.pwrite

    def torn(descriptor: int, data: bytes, offset: int) -> int:
        write(descriptor, data[: len(data) // 2], offset)
        raise OSError(number, os.strerror(number))

    def refuse(descriptor: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", torn)
        broken.setattr(os, "ftruncate", refuse)
        with pytest.raises(GatewayError):
            rotate(desk, "acme", acks)
    rotate(desk, "acme", acks)
    desk.close()
    assert check(state_dir, acks) == []

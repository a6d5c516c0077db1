import json
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.control.shapes import TenantLimits, TenantView
from protocol.errors import ErrorCode, GatewayError
from protocol.names import digest
from protocol.quotas import Quota
from supervisor import audit_reading
from supervisor.audit import Audit, AuditError
from supervisor.caps.effective import shown as shown_limits
from supervisor.config import Config, IsolationSection
from supervisor.registry import Registry, RegistryError
from supervisor.state import TENANT_FOLDERS, StateRoot
from supervisor.tenants import (
    SHARED_UIDS,
    TenantDesk,
    check_display_name,
    check_tenant_id,
)
from tests.supervisor.scripts import line_of, running

UID_FIRST = 1_900_000_000
CONFIG = Config(isolation=IsolationSection(uid_first=UID_FIRST, uid_count=1024))

DELETE_MUCH = """
import sys
from pathlib import Path
from supervisor.config import Config
from protocol.control.shapes import Quota
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
state = StateRoot(Path(sys.argv[1]))
desk = TenantDesk(state, Config())
desk.create("acme", actor="me", quota=Quota())
desk.create("other", actor="me", quota=Quota())
for number in range(500):
    (state.tenant_directory("acme") / "sandbox" / str(number)).touch()
desk.begin_delete("acme", actor="me")
print("begun", flush=True)
desk.wipe("acme")
desk.finish_delete("acme", actor="me")
"""

DELETE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from protocol.control.shapes import Quota
from supervisor.config import Config
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
state = StateRoot(Path(sys.argv[1]))
desk = TenantDesk(state, Config())
desk.create("acme", actor="me", quota=Quota())
desk.create("other", actor="me", quota=Quota())
(state.tenant_directory("acme") / "sandbox" / "a" / "b").mkdir(parents=True)
(state.tenant_directory("acme") / "sandbox" / "a" / "b" / "c").touch()
left = int(sys.argv[2])
def step(event, _arguments):
    # Whatever is done to the disk: files by Python's own events, the rest by lines of our code.
    global left
    if event in ("open", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.scandir"):
        tick()
def tick(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def trace(frame, event, _argument):
    if "/supervisor/" not in frame.f_code.co_filename:
        return None
    if event == "line":
        tick()
    return trace
print("ready", flush=True)
sys.addaudithook(step)
sys.settrace(trace)
desk.begin_delete("acme", actor="me")
desk.wipe("acme")
desk.finish_delete("acme", actor="me")
sys.settrace(None)
print(left, flush=True)
"""
STEPS_MAX = 1_000_000

FULL_DISK = """
import resource, sys
from pathlib import Path
from protocol.control.shapes import Quota, TenantView
from protocol.errors import GatewayError
from supervisor.config import Config
from protocol.control.shapes import Quota
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
state = StateRoot(Path(sys.argv[1]))
desk = TenantDesk(state, Config())
desk.create("old", actor="me", quota=Quota())
while state.audit.stat().st_size < 300_000:
    desk.audit.append("filler", actor="me", now_ms=1, text="x" * 10_000)
before = desk.registry.token_digests()
for limit in (state.audit.stat().st_size, 20_000):  # the audit takes no more; then nothing does
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for act in (
        lambda: desk.create("new", actor="me", quota=Quota()),
        lambda: desk.tokens.rotate("old", actor="me"),
        lambda: desk.begin_delete("old", actor="me"),
    ):
        try:
            act()
        except GatewayError as error:
            print(error.code.name, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert desk.registry.token_digests() == before
    assert [tenant.tenant_id for tenant in desk.list()] == ["old"]
    assert [path.name for path in state.tenants.iterdir()] == ["old"]
desk.create("new", actor="me", quota=Quota())
desk.close()
"""


@pytest.fixture
def state(state_dir: Path) -> StateRoot:
    root = StateRoot(state_dir / "state")
    root.prepare()
    return root


@pytest.fixture
def desk(state: StateRoot) -> Iterator[TenantDesk]:
    desk = TenantDesk(state, CONFIG, now_ms=lambda: 1_700_000_000_007)
    yield desk
    desk.close()


def create(desk: TenantDesk, tenant: str, name: str | None = None) -> str:
    return desk.create(tenant, actor="me", display_name=name, quota=Quota()).token


def delete(desk: TenantDesk, tenant: str) -> None:
    desk.begin_delete(tenant, actor="me")
    desk.wipe(tenant)
    desk.finish_delete(tenant, actor="me")


def refused(code: ErrorCode) -> "pytest.RaisesExc[GatewayError]":
    return pytest.RaisesExc(GatewayError, check=lambda error: error.code is code)


def audited(state: StateRoot) -> list[tuple[str, str, str | None]]:
    lines = [json.loads(line) for line in state.audit.read_text().splitlines()]
    return [(line["action"], line["actor"], line.get("tenant")) for line in lines]


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in [directory, *directory.rglob("*")]
    }


PRIVATE = {"acme": 0o700, **{f"acme/{folder}": 0o700 for folder in TENANT_FOLDERS}}


# --- creation


def test_a_tenant_is_row_token_directory_and_audit(desk: TenantDesk, state: StateRoot) -> None:
    quota = Quota(tokens_per_day=5)
    created = desk.create("acme", actor="me", display_name="Acme, Inc. 🦀", quota=quota)
    shown = TenantView(
        tenant_id="acme",
        display_name="Acme, Inc. 🦀",
        created_at="2023-11-14T22:13:20.007Z",
        disabled=False,
        state="enabled",
        quota=quota,
        limits=TenantLimits(),
        effective_limits=shown_limits(TenantLimits(), CONFIG.caps),
        state_dir="/tenants/acme",
    )
    assert desk.get("acme") == shown
    assert desk.list() == [shown]
    assert set(desk.registry.tokens_of("acme")) == {digest(created.token).hex()}
    assert modes(state.tenants / "acme") == PRIVATE
    assert audited(state) == [("tenant.created", "me", "acme")]
    assert created.token not in state.audit.read_text()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_its_directories_are_private_whatever_the_umask(
    desk: TenantDesk, state: StateRoot, umask: int
) -> None:
    before = os.umask(umask)
    try:
        create(desk, "acme")
    finally:
        os.umask(before)
    assert modes(state.tenants / "acme") == PRIVATE


@pytest.mark.root
def test_as_root_each_tenant_owns_its_directory(desk: TenantDesk, state: StateRoot) -> None:
    for number, tenant in enumerate(("a", "b")):
        create(desk, tenant)
        uid = UID_FIRST + SHARED_UIDS + number
        directory = state.tenants / tenant
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in directory.iterdir()}
        assert owners == {(uid, uid)}
        assert (directory.stat().st_uid, directory.stat().st_gid) == (uid, uid)


@pytest.mark.root
def test_as_root_a_range_that_is_used_up_refuses(state: StateRoot) -> None:
    desk = TenantDesk(state, CONFIG)
    with desk.registry.atomically():
        for number in range(1024 - SHARED_UIDS):
            desk.registry.create(
                f"t{number}",
                uid_first=UID_FIRST + SHARED_UIDS,
                uid_count=1024 - SHARED_UIDS,
                display_name=None,
                quota=Quota(),
                now_ms=1,
            )
    with refused(ErrorCode.UNAVAILABLE) as error:
        create(desk, "one-more")
    assert "used up" in error.value.message
    assert not (state.tenants / "one-more").exists()
    desk.close()


def test_as_a_user_tenants_have_no_uid(desk: TenantDesk) -> None:
    create(desk, "acme")
    assert (desk.registry.get("acme").uid is None) == (os.geteuid() != 0)


def test_an_id_is_taken_once(desk: TenantDesk, state: StateRoot) -> None:
    token = create(desk, "acme")
    with refused(ErrorCode.CONFLICT):
        create(desk, "acme")
    assert set(desk.registry.tokens_of("acme")) == {digest(token).hex()}
    assert len(audited(state)) == 1


@pytest.mark.parametrize("leftover", ["directory", "file", "dangling link"])
def test_what_another_left_behind_is_given_to_nobody(
    desk: TenantDesk, state: StateRoot, leftover: str
) -> None:
    path = state.tenants / "acme"
    match leftover:
        case "directory":
            path.mkdir()
        case "file":
            path.write_text("x")
        case _:
            path.symlink_to("/nowhere")
    with refused(ErrorCode.CONFLICT) as error:
        create(desk, "acme")
    assert str(path) in error.value.message
    assert desk.list() == []
    assert audited(state) == []


BAD_IDS = [
    *("", " ", ".", "..", "../a", "a/b", "/etc", "a\\b", "-", "-a", "a-", "A", "a_b", "a.b"),
    *("a\0", "\0", "a\n", "a\r", "\x1b[2J", "ä", "\u0430", "\uff11", "a\u200b", "\ud800", "%2e%2e"),
    *("a" * 41, "a" * 1_000_000, ".new-acme", "tenants/acme", "~", "*", "acme "),
]


@pytest.mark.parametrize("tenant", BAD_IDS, ids=lambda tenant: ascii(tenant)[:20])
def test_what_is_no_id_is_refused_everywhere(
    desk: TenantDesk, state: StateRoot, tenant: str
) -> None:
    for act in (
        lambda: create(desk, tenant),
        lambda: desk.get(tenant),
        lambda: desk.tokens.rotate(tenant, actor="me"),
        lambda: desk.begin_delete(tenant, actor="me"),
        lambda: check_tenant_id(tenant),
    ):
        with refused(ErrorCode.INVALID_REQUEST) as error:
            act()
        assert error.value.details == {"field": "tenantId"}
        assert len(error.value.message) < 200
    assert list(state.tenants.iterdir()) == []
    assert audited(state) == []


@pytest.mark.parametrize("name", [None, "", " ", "x" * 500, "Ünïcödé 株式会社 🦀", "'\"<&>\\"])
def test_a_display_name_is_any_printable_text(desk: TenantDesk, name: str | None) -> None:
    create(desk, "acme", name)
    assert desk.get("acme").display_name == name


@pytest.mark.parametrize(
    "name",
    ["x" * 501, "a\0b", "a\nb", "a\rb", "\x1b[2J", "\u202egnp", "a\u2028b", "\ud800", "\x7f"],
)
def test_a_display_name_is_nothing_else(desk: TenantDesk, state: StateRoot, name: str) -> None:
    with refused(ErrorCode.INVALID_REQUEST) as error:
        create(desk, "acme", name)
    assert error.value.details == {"field": "displayName"}
    with refused(ErrorCode.INVALID_REQUEST):
        check_display_name(name)
    assert desk.list() == []
    assert list(state.tenants.iterdir()) == []


# --- what a crash leaves is healed


@pytest.mark.parametrize("half", [False, True], ids=["nothing", "half a directory"])
def test_a_row_without_directory_gets_one(desk: TenantDesk, state: StateRoot, half: bool) -> None:
    create(desk, "acme")
    directory = state.tenants / "acme"
    shutil.rmtree(directory)
    if half:
        (state.tenants / ".new-acme" / "sessions").mkdir(parents=True)
    row = desk.registry.get("acme")
    assert desk.ensure_directory(row) == directory
    assert modes(directory) == PRIVATE
    if row.uid is not None:
        assert directory.stat().st_uid == row.uid
    (directory / "memory" / "kept").write_text("x")
    desk.ensure_directory(row)
    assert (directory / "memory" / "kept").read_text() == "x"
    assert [path.name for path in state.tenants.iterdir()] == ["acme"]


def test_a_torn_audit_is_repaired_and_that_is_audited(desk: TenantDesk, state: StateRoot) -> None:
    create(desk, "acme")
    with state.audit.open("a") as file:
        file.write('{"torn')
    again = TenantDesk(state, CONFIG)
    again.close()
    assert audited(state) == [
        ("tenant.created", "me", "acme"),
        ("audit.repaired", "gateway", None),
    ]
    assert json.loads(state.audit.read_text().splitlines()[-1])["detail"] == {"bytesCut": 6}


def test_a_desk_that_cannot_open_keeps_nothing_open(state: StateRoot) -> None:
    state.audit.write_text("no audit\n")
    with pytest.raises(AuditError):
        TenantDesk(state, CONFIG)
    state.audit.unlink()
    state.registry.with_name("registry.sqlite-wal").unlink(missing_ok=True)
    state.registry.write_text("no registry" * 100)
    with pytest.raises(RegistryError):
        TenantDesk(state, CONFIG)


# --- tokens


def test_rotation_replaces_the_token_and_is_audited(desk: TenantDesk, state: StateRoot) -> None:
    old = create(desk, "acme")
    new = desk.tokens.rotate("acme", actor="you").token
    assert set(desk.registry.tokens_of("acme")) == {digest(new).hex()}
    assert audited(state)[1:] == [("token.rotated", "you", "acme")]
    assert not {old, new} & set(state.audit.read_text().split('"'))


@pytest.mark.parametrize("tenant", ["nobody", "deleting"])
def test_who_is_not_there_is_not_found(desk: TenantDesk, state: StateRoot, tenant: str) -> None:
    create(desk, "deleting")
    desk.begin_delete("deleting", actor="me")
    before = audited(state)
    for act in (lambda: desk.get(tenant), lambda: desk.tokens.rotate(tenant, actor="me")):
        with refused(ErrorCode.NOT_FOUND) as error:
            act()
        assert error.value.message == f"no such tenant: {tenant}"
    with refused(ErrorCode.NOT_FOUND):
        desk.begin_delete("nobody", actor="me")
    assert audited(state) == before


# --- deletion


def test_deletion_removes_all_but_the_audit(desk: TenantDesk, state: StateRoot) -> None:
    create(desk, "acme")
    create(desk, "other")
    (state.tenants / "acme" / "sessions" / "sessions.sqlite").write_text("x")
    delete(desk, "acme")
    assert [tenant.tenant_id for tenant in desk.list()] == ["other"]
    assert [path.name for path in state.tenants.iterdir()] == ["other"]
    assert list(desk.registry.token_digests()) == ["other"]
    assert audited(state)[2:] == [
        ("tenant.deleting", "me", "acme"),
        ("tenant.deleted", "me", "acme"),
    ]
    create(desk, "acme")
    assert modes(state.tenants / "acme") == PRIVATE


def test_deletion_is_listed_until_it_is_done(desk: TenantDesk) -> None:
    create(desk, "acme")
    desk.begin_delete("acme", actor="me")
    (row,) = desk.list()
    assert (row.state, row.disabled) == ("deleting", True)
    with refused(ErrorCode.CONFLICT):
        create(desk, "acme")


def test_a_late_second_deletion_spares_the_next_tenant_of_the_name(
    desk: TenantDesk, state: StateRoot
) -> None:
    create(desk, "acme")
    desk.begin_delete("acme", actor="one")
    desk.begin_delete("acme", actor="other")
    desk.wipe("acme")
    desk.finish_delete("acme", actor="one")
    create(desk, "acme")
    (state.tenants / "acme" / "memory" / "new").write_text("x")
    desk.finish_delete("acme", actor="other")
    assert (state.tenants / "acme" / "memory" / "new").exists()
    assert desk.get("acme").state == "enabled"
    delete(desk, "acme")
    desk.finish_delete("acme", actor="me")
    assert [action for action, _, _ in audited(state)].count("tenant.deleted") == 2


@pytest.mark.parametrize("left", ["all", "half", "nothing"])
def test_a_deletion_that_was_cut_off_is_finished(
    desk: TenantDesk, state: StateRoot, left: str
) -> None:
    create(desk, "acme")
    create(desk, "other")
    desk.begin_delete("acme", actor="me")
    if left == "half":
        shutil.rmtree(state.tenants / "acme" / "sessions")
    if left == "nothing":
        shutil.rmtree(state.tenants / "acme")
    again = TenantDesk(state, CONFIG)
    again.recover()
    again.recover()
    assert [tenant.tenant_id for tenant in again.list()] == ["other"]
    assert [path.name for path in state.tenants.iterdir()] == ["other"]
    again.close()
    assert audited(state)[-1] == ("tenant.deleted", "gateway", "acme")


def test_a_deletion_survives_a_kill(state: StateRoot) -> None:
    with running(DELETE_MUCH, state.path) as process:
        assert line_of(process) == "begun"
        process.kill()
        process.wait()
    desk = TenantDesk(state, CONFIG)
    desk.recover()
    assert [tenant.tenant_id for tenant in desk.list()] == ["other"]
    assert list(desk.registry.token_digests()) == ["other"]
    desk.close()
    assert [path.name for path in state.tenants.iterdir()] == ["other"]
    assert [action for action, _, tenant in audited(state) if tenant == "acme"] == [
        "tenant.created",
        "tenant.deleting",
        "tenant.deleted",
    ]


def test_a_deletion_can_be_killed_at_any_step(state_dir: Path) -> None:
    """Kill it at steps spread over all of it: it has not begun, or it can be finished."""
    whole = StateRoot(state_dir / "whole")
    whole.prepare()
    with running(DELETE_AND_DIE, whole.path, str(STEPS_MAX)) as process:
        assert line_of(process) == "ready"
        steps = STEPS_MAX - int(line_of(process))
    assert steps > 100
    not_begun = 0
    for step in range(1, steps + 1, steps // 12):
        state = StateRoot(state_dir / f"at-{step}")
        state.prepare()
        with running(DELETE_AND_DIE, state.path, str(step)) as process:
            assert line_of(process) == "ready"
            assert process.wait() == -signal.SIGKILL
        desk = TenantDesk(state, CONFIG)
        desk.recover()
        left = [tenant.tenant_id for tenant in desk.list()]
        desk.close()
        assert sorted(path.name for path in state.tenants.iterdir()) == left
        assert audit_reading.verify(state.audit).fault is None
        actions = [action for action, _, tenant in audited(state) if tenant == "acme"]
        if left == ["acme", "other"]:
            not_begun += 1
            assert "tenant.deleted" not in actions
        else:
            assert left == ["other"]
            assert actions[-1] == "tenant.deleted"
    assert 0 < not_begun < 10


def test_a_hostile_directory_is_wiped_without_touching_what_it_points_to(
    desk: TenantDesk, state: StateRoot
) -> None:
    create(desk, "acme")
    create(desk, "other")
    secret = state.tenants / "other" / "memory" / "secret"
    secret.write_text("kept")
    before = secret.stat().st_mode, secret.parent.stat().st_mtime_ns
    hostile = state.tenants / "acme"
    shutil.rmtree(hostile / "sessions")
    (hostile / "sessions").symlink_to(state.tenants / "other")
    (hostile / "memory" / "link").symlink_to(secret)
    (hostile / "memory" / "hard").hardlink_to(secret)
    closed = hostile / "cron" / "closed"
    closed.mkdir()
    (closed / "up").symlink_to("../../../other/memory")
    closed.chmod(0o000)
    (hostile / "cron").chmod(0o000)
    delete(desk, "acme")
    assert not hostile.exists()
    assert secret.read_text() == "kept"
    assert (secret.stat().st_mode, secret.parent.stat().st_mtime_ns) == before


def test_one_that_cannot_be_removed_stops_nobody_and_can_be_tried_again(
    desk: TenantDesk, state: StateRoot, state_dir: Path
) -> None:
    elsewhere = state_dir / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    create(desk, "acme")
    create(desk, "other")
    stuck = state.tenants / "acme"
    shutil.rmtree(stuck)
    stuck.symlink_to(elsewhere)
    desk.begin_delete("acme", actor="me")
    with refused(ErrorCode.UNAVAILABLE) as error:
        desk.wipe("acme")
    assert str(stuck) in error.value.message
    desk.begin_delete("other", actor="me")
    desk.recover()
    assert [(tenant.tenant_id, tenant.state) for tenant in desk.list()] == [("acme", "deleting")]
    assert (elsewhere / "kept").exists()
    stuck.unlink()
    delete(desk, "acme")
    assert desk.list() == []


# --- a disk that is full


def test_a_full_disk_changes_nothing_and_ends_nothing(state: StateRoot) -> None:
    with running(FULL_DISK, state.path) as process:
        assert [line_of(process) for _ in range(6)] == ["UNAVAILABLE"] * 6
        assert process.wait() == 0
    assert [line for line in audited(state) if line[0] != "filler"] == [
        ("tenant.created", "me", "old"),
        ("tenant.created", "me", "new"),
    ]
    Audit(state.audit).close()
    registry = Registry(state.registry)
    assert [row.id for row in registry.tenants()] == ["new", "old"]
    registry.close()


def test_a_directory_that_cannot_be_made_is_an_answer(desk: TenantDesk, state: StateRoot) -> None:
    (state.tenants / ".new-acme").write_text("in the way")
    with refused(ErrorCode.UNAVAILABLE) as error:
        create(desk, "acme")
    assert ".new-acme" in error.value.message
    (state.tenants / ".new-acme").unlink()
    desk.ensure_directory(desk.registry.get("acme"))
    assert modes(state.tenants / "acme") == PRIVATE

"""The jail fails closed: what it cannot hold ends the process before its own code runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.zygote import jail, seccomp
from tests.attack import harness

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")

as_user = pytest.mark.user


@pytest.fixture(scope="module")
def zygote() -> Iterator[harness.Zygote]:
    with harness.attackers() as process:
        yield process


@pytest.fixture
def state(state_dir: Path) -> Path:
    harness.make_state(state_dir, "acme", "globex")
    return state_dir


def refused(
    zygote: harness.Zygote, state: Path, tenant: str = "acme", **changes: Any
) -> tuple[int, str]:
    """Exit code and the one line on standard error of a worker that never came to be."""
    spec = harness.worker_spec(state, tenant, **changes)
    worker = zygote.spawn(spec, harness.order(state, "look_around"))
    assert worker.link.recv(1) == b"", "its code ran"
    code, errors = worker.wait(), worker.errors()
    # The zygote is none the worse for it.
    ready = zygote.spawn(
        harness.worker_spec(state, "globex"), harness.order(state, "wait_to_be_told")
    )
    ready.wait_ready()
    assert errors.startswith("openclaw: jail: ")
    assert errors.count("\n") == 1
    return code, errors.removeprefix("openclaw: jail: ")


@pytest.mark.parametrize(
    "tenant", ["", ".", "..", "../tenants/globex", "a/b", "Acme", "a\nb", "a\0"]
)
def test_what_is_no_tenant_id(tenant: str, state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, tenant)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("open_directory: not a tenant id")


def test_a_missing_directory_by_its_name(state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, "initech")
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("open_directory: ")
    assert f"{state}/tenants/initech" in errors


@pytest.mark.parametrize("link", ["tenants/hooli", "tenants"])
def test_a_directory_behind_a_symbolic_link(link: str, state: Path, zygote: harness.Zygote) -> None:
    if link == "tenants":
        (state / "tenants").rename(state / "elsewhere")
        (state / "tenants").symlink_to("elsewhere")
        tenant = "acme"
    else:
        (state / link).symlink_to("globex")
        tenant = "hooli"
    worker = zygote.spawn(harness.worker_spec(state, tenant), harness.order(state, "look_around"))
    assert worker.wait() == jail.EXIT_CONFIGURATION
    step = "validate" if link == "tenants" else "open_directory"
    assert f"{step}: [Errno 40]" in worker.errors()


def test_a_directory_that_others_may_read(state: Path, zygote: harness.Zygote) -> None:
    (state / "tenants/acme").chmod(0o750)
    code, errors = refused(zygote, state)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("enter_directory: ")
    assert "is not private" in errors


@pytest.mark.root
def test_a_directory_of_somebody_else(state: Path, zygote: harness.Zygote) -> None:
    uid, gid = harness.ids("globex")
    code, errors = refused(zygote, state, "acme", uid=uid, gid=gid)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("enter_directory: ")
    assert f"{state}/tenants/acme" in errors


@pytest.mark.root
def test_a_directory_that_the_tenant_cannot_reach(state: Path, zygote: harness.Zygote) -> None:
    state.chmod(0o700)
    spec = harness.worker_spec(state, "acme", namespaces=False, readable=("/usr",))
    worker = zygote.spawn(spec, harness.order(state, "look_around"))
    assert worker.wait() == jail.EXIT_CONFIGURATION
    assert f"enter_directory: [Errno 13] Permission denied ({state}/tenants/acme)" in (
        worker.errors()
    )


@pytest.mark.root
@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (0, 1), (1, 0), (-1, 1), (1, -1)])
def test_becoming_root_or_nobody(uid: int, gid: int, state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, uid=uid, gid=gid)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("open_directory: cannot become uid")


@as_user
@pytest.mark.parametrize("uid", [0, 1, 1_900_000_000])
def test_becoming_somebody_else_as_an_ordinary_user(
    uid: int, state: Path, zygote: harness.Zygote
) -> None:
    code, errors = refused(zygote, state, uid=uid)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("open_directory: only root can become")


@as_user
def test_an_ordinary_user_without_namespaces(state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, namespaces=False)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("validate: tenants of one uid need namespaces")


def test_a_missing_policy(state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, policy=b"")
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("validate: there is no system call policy")


@pytest.mark.parametrize("policy", [b"\0" * 7, b"\0" * 8, seccomp.compiled("worker")[:8]])
def test_a_policy_that_is_no_program(policy: bytes, state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, policy=policy)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("filter_system_calls: ")


@pytest.mark.parametrize("path", ["/", "{state}", "{state}/tenants", "{state}/tenants/globex"])
def test_showing_more_of_the_state_root(path: str, state: Path, zygote: harness.Zygote) -> None:
    path = path.format(state=state)
    code, errors = refused(zygote, state, readable=("/usr", path))
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith(f"validate: {path} would show every tenant")


def test_showing_more_of_the_state_root_by_a_link(state: Path, zygote: harness.Zygote) -> None:
    (state / "innocent").symlink_to("tenants")
    code, errors = refused(zygote, state, readable=("/usr", f"{state}/innocent"))
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("validate: ")


@pytest.mark.parametrize("path", ["usr", "", "/usr/../etc", "/usr/", "/a\0b"])
def test_paths_that_are_not_plain(path: str, state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, readable=("/usr", path))
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("validate: not a plain absolute path")


def test_a_readable_path_that_is_missing(state: Path, zygote: harness.Zygote) -> None:
    code, errors = refused(zygote, state, readable=("/usr", "/openclaw-missing"))
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("build_root: ")
    assert "/openclaw-missing" in errors


@pytest.mark.root
def test_a_python_that_the_tenant_may_not_read(state: Path, zygote: harness.Zygote) -> None:
    closed = state / "python"
    closed.mkdir(mode=0o700)
    code, errors = refused(zygote, state, readable=("/usr", str(closed)))
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("restrict_files: ")
    assert str(closed) in errors


def test_what_is_waived_is_left_out_and_nothing_else(state: Path) -> None:
    with harness.attackers(filtered=False) as zygote:
        check_what_is_waived(state, zygote)


def check_what_is_waived(state: Path, zygote: harness.Zygote) -> None:
    waived = {"waived": True, "namespaces": False, "readable": ("/usr",)}
    spec = harness.worker_spec(state, "acme", **waived, policy=b"")
    worker = zygote.spawn(spec, harness.order(state, "wait_to_be_told"))
    worker.wait_ready()
    assert worker.status()["Seccomp"] == "0"
    assert worker.status()["NoNewPrivs"] == "1"
    code, errors = refused(zygote, state, "../acme", **waived)
    assert code == jail.EXIT_CONFIGURATION
    assert errors.startswith("open_directory: ")

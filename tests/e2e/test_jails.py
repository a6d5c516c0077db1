"""The processes of a real gateway, seen from outside: what the kernel says they are left with."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.harness import holds
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# The front enters its namespaces itself, and a pid namespace is entered by forking only.
NAMESPACES = {
    "worker acme": ("mnt", "net", "ipc", "uts", "pid"),
    "front": ("mnt", "net", "ipc", "uts"),
    "zygote": ("net", "ipc", "uts"),
}
CANARY = secrets.token_hex(16)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Gateway, dict[str, bytes]]]:
    """A gateway with two awake tenants, and by its name everything that acme must not have."""
    state = make_state_dir()
    (state / "config.yaml").write_text(f"# {CANARY}-of-the-configuration\n")
    os.environ["OPENCLAW_CANARY"] = f"{CANARY}-of-the-environment"
    try:
        with Gateway(state) as gateway:
            acme, globex = gateway.create("acme"), gateway.create("globex")
            assert gateway.inbound(acme, f"{CANARY}-of-acme").status == 200
            assert gateway.inbound(globex, f"{CANARY}-of-globex").status == 200
            yield (
                gateway,
                {
                    "the environment": f"{CANARY}-of-the-environment".encode(),
                    "the configuration": f"{CANARY}-of-the-configuration".encode(),
                    "the admin key": (state / "admin.key").read_bytes().strip(),
                    "the neighbour's token": globex.encode(),
                    "its own token": acme.encode(),
                    "the neighbour's message": f"{CANARY}-of-globex".encode(),
                },
            )
    finally:
        del os.environ["OPENCLAW_CANARY"]
    remove_tree(state)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("title", ["worker acme", "front", "egress"])
def test_nothing_is_left_of_privileges(
    title: str, running: tuple[Gateway, dict[str, bytes]]
) -> None:
    pid = running[0].process(f"openclaw: {title}").pid
    seen = status(pid)
    # What an ordinary user could be given by a program he executes stays as it was, where there is
    # no user namespace; it executes none, and would be given nothing.
    kept = {"CapBnd"} if title == "egress" and os.geteuid() != 0 else set()
    assert {int(seen[name], 16) for name in CAPABILITY_SETS if name not in kept} == {0}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert seen["Umask"] == "0077"
    assert len(set(seen["Uid"].split() + seen["Gid"].split())) <= 2
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "dumpable"
    if os.geteuid() == 0:
        assert seen["Groups"] == ""
        assert "0" not in seen["Uid"].split() + seen["Gid"].split()
    else:
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/environ").read_bytes()


def test_the_zygote_is_filtered_too(running: tuple[Gateway, dict[str, bytes]]) -> None:
    seen = status(running[0].process("openclaw: zygote").pid)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")


def test_a_worker_is_the_first_of_its_own_process_ids(
    running: tuple[Gateway, dict[str, bytes]],
) -> None:
    pids = status(running[0].process("openclaw: worker acme").pid)["NSpid"].split()
    assert pids[-1] == "1"
    assert len(pids) > len(status(running[0].pid)["NSpid"].split())


@pytest.mark.root  # nobody else may look at what is not dumpable
@pytest.mark.parametrize("title", NAMESPACES)
def test_each_has_namespaces_of_its_own(
    title: str, running: tuple[Gateway, dict[str, bytes]]
) -> None:
    gateway = running[0]
    pid = gateway.process(f"openclaw: {title}").pid
    others = [gateway.pid, *(other.pid for other in gateway.processes().values())]
    for name in NAMESPACES[title]:
        own = Path(f"/proc/{pid}/ns/{name}").stat().st_ino
        for other in others:
            if other != pid:
                assert Path(f"/proc/{other}/ns/{name}").stat().st_ino != own, name


@pytest.mark.root
def test_no_secret_is_in_a_memory_where_it_does_not_belong(
    running: tuple[Gateway, dict[str, bytes]],
) -> None:
    gateway, secrets_of = running
    worker, front, zygote = (
        gateway.process(f"openclaw: {title}").pid for title in ("worker acme", "front", "zygote")
    )
    for name, secret in secrets_of.items():
        assert not holds(worker, secret), name
        assert not holds(zygote, secret), name
    egress = gateway.process("openclaw: egress").pid
    for name in ("the environment", "the configuration"):
        assert not holds(front, secrets_of[name]), name
    for name in ("the environment", "the configuration", "the admin key", "the neighbour's token"):
        assert not holds(egress, secrets_of[name]), name
    # They are found where they are.
    assert holds(worker, f"{CANARY}-of-acme".encode())
    assert holds(gateway.process("openclaw: worker globex").pid, f"{CANARY}-of-globex".encode())
    assert holds(gateway.pid, secrets_of["the environment"])


def test_a_workers_memory_limit_is_the_configurations(
    running: tuple[Gateway, dict[str, bytes]],
) -> None:
    pid = running[0].process("openclaw: worker acme").pid
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (data,) = [line.split() for line in limits if line.startswith("Max data size")]
    assert data[3:5] == [str(2**30)] * 2

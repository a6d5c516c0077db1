"""An egress that is owned, confined by itself: it connects and keeps a ledger, and nothing else."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.egress import Settings
from supervisor.egress import confinement
from supervisor.zygote import landlock
from tests.attack import attacks, harness
from tests.conftest import make_state_dir, remove_tree

EGRESS = Path(__file__).with_name("egress_attacker.py")
UID = harness.UID_FIRST
# What it is for: it connects, wherever; which addresses are asked is for the guard above to say.
MAY = {
    "a socket of any family",
    "socket inet",
    "socket netlink",
    "connect to the gateway",
}
# The walls it has. It sees the machine's processes and names, and can open none of them.
WALLS = {
    attacks.LANDLOCK,
    attacks.SECCOMP,
    attacks.CAPABILITIES,
    attacks.NOT_DUMPABLE,
    attacks.LIMITS,
}


@pytest.fixture(scope="module")
def owned() -> Iterator[dict[str, Any]]:
    assert landlock.abi() >= 6, "what follows is written for a kernel that has it"
    root = make_state_dir()
    harness.make_state(root, "globex")
    (root / "ledger").mkdir(mode=0o700)
    if harness.ROOT:
        os.chown(root / "ledger", UID, UID)
    victim = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    link, theirs = socket.socketpair()
    link.settimeout(harness.DEADLINE_SECONDS)
    try:
        with link, socket.create_server(("127.0.0.1", 0)) as server:
            settings = Settings(
                ledger_directory=str(root / "ledger"),
                uid=UID if harness.ROOT else None,
                policy=confinement.policy(),
            )
            order = harness.order(
                root,
                names=list(attacks.ALL),
                neighbour_pid=victim.pid,
                port=server.getsockname()[1],
            )
            arguments = [msgspec.msgpack.encode(settings).hex(), order.hex()]
            shell = 'exec 3<&$1; shift; exec "$@"'
            with theirs:
                number = str(theirs.fileno())
                command = [sys.executable, "-I", str(EGRESS), *arguments]
                process = subprocess.Popen(
                    ["/bin/bash", "-c", shell, "-", number, *command],
                    env={},
                    pass_fds=[theirs.fileno()],
                    stderr=subprocess.PIPE,
                )
            answering = threading.Thread(target=_answer, args=(server,), daemon=True)
            answering.start()
            said = b"".join(iter(lambda: link.recv(65536), b""))
            _, errors = process.communicate(timeout=harness.DEADLINE_SECONDS)
            assert said, errors.decode()
            assert process.returncode == 0, errors.decode()
            yield json.loads(said)
    finally:
        victim.communicate()
        remove_tree(root)


def _answer(server: socket.socket) -> None:
    """Give every connection its line back, until the server is closed."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, client.makefile("rb") as lines:
            client.sendall(lines.readline())


def test_every_other_attack_is_refused(owned: dict[str, Any]) -> None:
    walls = WALLS | ({attacks.UID} if harness.ROOT else set())
    stopped_by_nothing = {name for name, each in attacks.ALL.items() if not each.stopped_by & walls}
    worked = {name for name, outcome in owned["attacks"].items() if outcome.startswith("worked")}
    assert worked == stopped_by_nothing | MAY
    # Of names that it may not open it learns that they are there, as everybody does.
    seen = {name for name in stopped_by_nothing if name.startswith(("stat", "enter"))}
    assert seen == stopped_by_nothing


def test_it_listens_nowhere(owned: dict[str, Any]) -> None:
    assert owned["listen"] in (str(errno.EPERM), str(errno.ENOSYS))
    assert owned["bind"] == str(errno.EPERM)


def test_it_does_what_it_is_for(owned: dict[str, Any]) -> None:
    assert owned["work"] == {"said": "over the wire\n", "rows": 1}


def test_it_has_a_uid_and_a_directory_of_its_own(owned: dict[str, Any]) -> None:
    seen = owned["self"]
    uid, gid = (UID, UID) if harness.ROOT else harness.ids("")
    assert seen["ids"] == [uid, uid, gid, gid]
    assert seen["cwd"].endswith("/ledger")
    assert seen["environment"].keys() <= {"PWD", "SHLVL", "_", "LC_CTYPE"}

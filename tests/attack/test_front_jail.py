"""A front that is owned, confined by itself, with the listening socket it was given."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from supervisor.zygote import jail, roots, seccomp
from supervisor.zygote.spec import JailSpec, Limits
from tests.attack import attacks, harness

FRONT = Path(__file__).with_name("front_attacker.py")
UID = harness.UID_FIRST
# It has a pid namespace no more than it has children; seccomp closes what that would.
MODES = [
    pytest.param({}, id="namespaces"),
    pytest.param(
        {"namespaces": False, "readable": ("/dev/urandom", "/usr")},
        id="landlock",
        marks=pytest.mark.root,
    ),
]


def front_spec(root: Path, **changes: Any) -> JailSpec:
    uid, gid = (UID, UID) if harness.ROOT else harness.ids("")
    fields: dict[str, Any] = {
        "profile": "front",
        "state_root": str(root),
        "uid": uid,
        "gid": gid,
        "namespaces": True,
        "readable": roots.readable_paths(),
        "policy": seccomp.compiled("front"),
        "limits": Limits(open_files=4096),
    }
    return JailSpec(**(fields | changes))


class Front:
    """The supervisor's side of a front that attacks and then serves one connection."""

    def __init__(
        self,
        root: Path,
        spec: JailSpec,
        *skip: str,
        names: Iterable[str] = attacks.ALL,
        hang_up: bool = False,
    ) -> None:
        # The process that it attacks when it attacks a process.
        self.victim = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        self.link, link = socket.socketpair()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.link.settimeout(harness.DEADLINE_SECONDS)
        order = harness.order(root, names=list(names), neighbour_pid=self.victim.pid)
        arguments = [msgspec.msgpack.encode(spec).hex(), order.hex(), json.dumps(skip)]
        command = [sys.executable, "-I", str(FRONT), *arguments]
        if hang_up:
            self.link.close()
        # As the supervisor does it: its descriptors are at 3 and 4.
        shell = 'exec 3<&$1 4<&$2; shift 2; exec "$@"'
        numbers = (link.fileno(), self.listener.fileno())
        with link:
            self.process = subprocess.Popen(
                ["/bin/bash", "-c", shell, "-", *map(str, numbers), *command],
                env={},
                pass_fds=numbers,
                stderr=subprocess.PIPE,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.victim.communicate()
        self.link.close()
        self.listener.close()

    def report(self) -> Any:
        with self.link.makefile("rb") as stream:
            line = stream.readline()
        assert line, self.process.communicate()[1].decode()
        return json.loads(line)

    def echo(self) -> bytes:
        address = self.listener.getsockname()
        with socket.create_connection(address, harness.DEADLINE_SECONDS) as client:
            client.sendall(b"over the wire\n")
            return client.makefile("rb").readline()


@pytest.mark.parametrize("changes", MODES)
def test_every_attack_is_refused_and_it_serves(changes: dict[str, Any], state_dir: Path) -> None:
    harness.make_state(state_dir, "globex")
    spec = front_spec(state_dir, **changes)
    with Front(state_dir, spec) as front:
        report = front.report()
        status = Path(f"/proc/{front.process.pid}/status").read_text()
        echoed = front.echo()
        code = front.process.wait(harness.DEADLINE_SECONDS)
    worked = {name for name, outcome in report["attacks"].items() if outcome.startswith("worked")}
    assert worked == ({"stat the neighbour's directory"} if changes else set())
    assert echoed == b"over the wire\n"
    assert code == 0
    assert report["self"]["descriptors"] == [0, 1, 2, 3, 4]
    assert report["self"]["cwd"] == "/"
    assert report["self"]["ids"] == [spec.uid, spec.uid, spec.gid, spec.gid]
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    assert lines["Seccomp"] == "2"
    assert lines["NoNewPrivs"] == "1"
    assert int(lines["CapBnd"], 16) == int(lines["CapEff"], 16) == 0


def test_without_seccomp_it_could_connect(state_dir: Path) -> None:
    harness.make_state(state_dir, "globex")
    names = ("socket inet", "socket netlink", "fork")
    with Front(state_dir, front_spec(state_dir), "filter_system_calls", names=names) as front:
        attempts = front.report()["attacks"]
    assert all(outcome.startswith("worked") for outcome in attempts.values()), attempts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": b""}, "validate: there is no system call policy"),
        ({"readable": ("/usr", "/openclaw-missing")}, "build_root: "),
        pytest.param({"uid": 0, "gid": 0}, "open_directory: ", id="root"),
    ],
)
def test_it_fails_closed(changes: dict[str, Any], reason: str, state_dir: Path) -> None:
    with Front(state_dir, front_spec(state_dir, **changes)) as front:
        _, errors = front.process.communicate(timeout=harness.DEADLINE_SECONDS)
        assert front.process.returncode == jail.EXIT_CONFIGURATION
        assert errors.decode().startswith(f"openclaw: jail: {reason}")
        assert front.link.recv(1) == b""


def test_it_does_not_start_without_a_supervisor(state_dir: Path) -> None:
    with Front(state_dir, front_spec(state_dir), hang_up=True) as front:
        _, errors = front.process.communicate(timeout=harness.DEADLINE_SECONDS)
        assert front.process.returncode == jail.EXIT_FAILED
        assert b"the supervisor is gone" in errors

"""Runs the real zygote, or a program in its place, and workers in the real jail."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from protocol import descriptors
from supervisor.zygote import main, roots, seccomp
from supervisor.zygote.spec import (
    WAITING,
    JailSpec,
    Order,
    Reply,
    Serving,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
)

ATTACKER = Path(__file__).with_name("attacker.py")
DEADLINE_SECONDS = 20.0
UID_FIRST = 1_900_000_000
ROOT = os.geteuid() == 0
SECCOMP = "filter_system_calls"
# Whether workers are told what they are when they have long waited for it, or at once.
TELL_SPARES = False
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def make_state(root: Path, *tenants: str, owner: tuple[int, int] | None = None) -> None:
    """Lay out a state root as the gateway does, with a secret in every tenant's directory.

    With an `owner` all tenants are of one uid and gid, else see `ids`.
    """
    for name in ("registry.sqlite", "admin.key", "config.yaml"):
        (root / name).write_text("secret")
        (root / name).chmod(0o600)
    (root / "tenants").mkdir(mode=0o755)
    for tenant in tenants:
        directory = root / "tenants" / tenant
        directory.mkdir(mode=0o700)
        (directory / "secret").write_text(f"{tenant}'s")
        (directory / "secret").chmod(0o600)
        uid, gid = owner or ids(tenant)
        for path in (directory, directory / "secret"):
            os.chown(path, uid, gid)


def ids(tenant: str) -> tuple[int, int]:
    """A tenant's uid and gid: its own if root runs the tests, else the caller's."""
    if not ROOT:
        return os.geteuid(), os.getegid()
    uid = UID_FIRST + 10 + sum(tenant.encode())
    return uid, uid


def worker_spec(root: Path, tenant: str, /, **changes: Any) -> JailSpec:
    """The jail of a tenant's worker."""
    uid, gid = ids(tenant)
    fields: dict[str, Any] = {
        "profile": "worker",
        "state_root": str(root),
        "tenant": tenant,
        "uid": uid,
        "gid": gid,
        "namespaces": True,
        "readable": roots.readable_paths(),
        "policy": seccomp.compiled("worker"),
    }
    return JailSpec(**(fields | changes))


def listing(directory: Path) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(entry.name for entry in directory.iterdir())


def holds(pid: int, secret: bytes) -> bool:
    """Whether a process has `secret` in its writable memory; for root."""
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for span, permissions in ((fields[0], fields[1]) for fields in maps):
            start, end = (int(text, 16) for text in span.split("-"))
            if permissions.startswith("rw"):
                memory.seek(start)
                if secret in memory.read(end - start):
                    return True
    return False


class Worker:
    """The supervisor's side of one worker."""

    def __init__(
        self, pid: int, link: socket.socket, channel: socket.socket, ready: int, err: int
    ) -> None:
        self.pid = pid
        self.link = link
        self.channel = channel
        self.ready = ready
        self.stderr = err
        self.reaped: int | None = None

    def report(self) -> Any:
        """What it answered on its link before it ended."""
        report = self.report_or_none()
        assert report is not None, self.errors()
        return report

    def report_or_none(self) -> Any:
        """What it answered, or None if it became another program that answers nothing."""
        self.link.settimeout(DEADLINE_SECONDS)
        answer = b"".join(iter(lambda: self.link.recv(65536), b""))
        if answer:
            return json.loads(answer)
        assert self.wait() == 0, (self.wait(), self.errors())
        return None

    def wait_until_it_waits(self) -> None:
        """Wait until it is a spare, or has ended."""
        self.channel.settimeout(DEADLINE_SECONDS)
        with contextlib.suppress(EOFError, ConnectionError):
            assert descriptors.receive(self.channel)[0] == WAITING

    def tell(self, order: bytes) -> None:
        """Say whose worker it is; it may have ended before."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            descriptors.send(self.channel, order)

    def wait_ready(self) -> None:
        assert select.select([self.ready], [], [], DEADLINE_SECONDS)[0]
        assert os.read(self.ready, 1) == b"r", self.errors()

    def wait(self) -> int:
        """Wait for its end: the exit code, or minus the signal."""
        if self.reaped is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                assert select.select([pidfd], [], [], DEADLINE_SECONDS)[0], "still runs"
            finally:
                os.close(pidfd)
            self.reaped = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.reaped

    def errors(self) -> str:
        """What it wrote to standard error until its end."""
        self.wait()
        with os.fdopen(os.dup(self.stderr), "rb") as file:
            return file.read().decode()

    def status(self) -> dict[str, str]:
        """The fields of /proc/<pid>/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def close(self) -> None:
        if self.reaped is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.link.close()
        self.channel.close()
        os.close(self.ready)
        os.close(self.stderr)


def next_reply(channel: socket.socket) -> Spawned | SpawnFailed:
    """Wait for an answer to a request; that the zygote serves is clear from it."""
    reply: Reply = Serving()
    while isinstance(reply, Serving):
        reply = _decode_reply(descriptors.receive(channel)[0])
    return reply


class Zygote:
    """A zygote process and the workers made by it."""

    def __init__(
        self, program: Path | None = ATTACKER, *arguments: str, filtered: bool = True
    ) -> None:
        self.channel, theirs = descriptors.pair()
        self.channel.settimeout(DEADLINE_SECONDS)
        command = main.command(theirs.fileno())
        if program is not None:
            command = [*command[:2], str(program), *command[3:], *arguments]
        with theirs:
            self.process = subprocess.Popen(command, env={}, pass_fds=[theirs.fileno()])
        policy = seccomp.compiled("zygote") if filtered else b""
        descriptors.send(self.channel, msgspec.msgpack.encode(Start(policy=policy)))
        self.workers: list[Worker] = []
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()
        self.channel.close()
        self.process.wait(DEADLINE_SECONDS)

    def ask(
        self, spec: JailSpec, entry: bytes, *, leave_out: int = 0, hang_up: bool = False
    ) -> Worker | SpawnFailed:
        """Ask for a worker, with all of its descriptors but the last few; and tell it.

        With `hang_up` the supervisor's end of its link is closed before it is asked for.
        """
        newborn = self.ask_newborn(spec, leave_out=leave_out, hang_up=hang_up)
        if isinstance(newborn, Worker):
            if TELL_SPARES:
                newborn.wait_until_it_waits()
            newborn.tell(told(spec, entry))
        return newborn

    def ask_newborn(
        self, spec: JailSpec, *, leave_out: int = 0, hang_up: bool = False
    ) -> Worker | SpawnFailed:
        """Ask for what becomes a worker when it is told whose; as `ask`."""
        link, their_link = socket.socketpair()
        if hang_up:
            link.close()
        channel, their_channel = descriptors.pair()
        ready, their_ready = os.pipe()
        errors, their_errors = os.pipe()
        theirs = [their_link.fileno(), their_channel.fileno(), their_ready, their_errors]
        self._requests += 1
        message = msgspec.msgpack.encode(Spawn(request=self._requests, jail=spec.shape))
        descriptors.send(self.channel, message, theirs[: len(theirs) - leave_out])
        their_link.close()
        their_channel.close()
        os.close(their_ready)
        os.close(their_errors)
        reply = next_reply(self.channel)
        assert reply.request == self._requests
        worker = Worker(getattr(reply, "pid", 0), link, channel, ready, errors)
        if isinstance(reply, Spawned):
            self.workers.append(worker)
            return worker
        worker.reaped = 0
        worker.close()
        return reply

    def end(self, worker: Worker) -> None:
        """End a worker now instead of at the end of the zygote."""
        self.workers.remove(worker)
        worker.close()

    def spawn(self, spec: JailSpec, entry: bytes, *, hang_up: bool = False) -> Worker:
        worker = self.ask(spec, entry, hang_up=hang_up)
        assert isinstance(worker, Worker), worker
        return worker

    def spare(self, spec: JailSpec, *, hang_up: bool = False) -> Worker:
        """A newborn that is told nothing yet."""
        newborn = self.ask_newborn(spec, hang_up=hang_up)
        assert isinstance(newborn, Worker), newborn
        return newborn


def told(spec: JailSpec, entry: bytes) -> bytes:
    """What a newborn is told to become the worker of this jail."""
    return msgspec.msgpack.encode(
        Order(tenant=spec.tenant, uid=spec.uid, gid=spec.gid, entry=entry)
    )


def order(
    root: Path,
    task: str = "",
    names: Sequence[str] = (),
    neighbour_pid: int = 1,
    port: int = 1,
    arguments: Sequence[tuple[str, int, int]] = (),
) -> bytes:
    """What an attacker's worker is told; the neighbour is always globex."""
    return json.dumps(
        {
            "target": {
                "state_root": str(root),
                "neighbour": str(root / "tenants" / "globex"),
                "neighbour_pid": neighbour_pid,
                "port": port,
            },
            "attacks": list(names),
            "task": task,
            "arguments": list(arguments),
        }
    ).encode()


@contextlib.contextmanager
def attackers(*, filtered: bool = True, **options: Any) -> Iterator[Zygote]:
    """A zygote whose workers attack; see `attacker.Options`.

    Where seccomp is left out, the filter that the zygote hands on to them is too.
    """
    filtered = filtered and options.get("shed", True) and SECCOMP not in options.get("skip", ())
    with Zygote(ATTACKER, json.dumps(options), filtered=filtered) as zygote:
        yield zygote


def python(program: Path, *arguments: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start one of the programs beside this file as the gateway starts its processes."""
    return subprocess.Popen(
        [sys.executable, "-I", str(program), *arguments],
        env={},
        pass_fds=pass_fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

"""Workers that send what they must not, or close what they should keep.

Each answers nothing and breaks a link instead as soon as a client's call has reached it.
"""

import socket
from collections.abc import Callable

import msgspec

from protocol import descriptors, frames, limits
from protocol.codec import encode
from tests.workers.puppet import Program, Puppet, pause

TORN = encode(frames.Result(1, b"{}" * 100))[:50]
HUGE = (limits.FRAME_BYTES_MAX + 1).to_bytes(4, "little")
NEVER_ASKED = 1000


def raw(*fields: object) -> bytes:
    """A frame with these fields, right or wrong; the first is its tag."""
    body = msgspec.msgpack.encode(fields)
    return len(body).to_bytes(4, "little") + body


UNKNOWN = raw(99, 1)
GARBAGE = (4).to_bytes(4, "little") + b"\xc1\xc1\xc1\xc1"
CALL = encode(frames.Call(1, "worker.wake", b'{"tenant":"globex"}', scopes=limits.SCOPE_BITS_MAX))
EVENT = encode(frames.Event("tenants", b"{}"))
IDLE = encode(frames.Event("idle", b"{}"))
IDLE_NONSENSE = encode(frames.Event("idle", b"[1"))


def to_supervisor(data: bytes) -> Program:
    """Make a worker that sends the supervisor these bytes."""

    class Breach(Puppet):
        def on_call(self, front: socket.socket, call: frames.Call) -> None:
            self.supervisor.sendall(data)

    return Breach.program


def to_front(data: Callable[[frames.Call], bytes]) -> Program:
    """Make a worker that sends the front these bytes."""

    class Breach(Puppet):
        def on_call(self, front: socket.socket, call: frames.Call) -> None:
            front.sendall(data(call))

    return Breach.program


def to_launcher(data: bytes) -> Program:
    """Make a worker that sends the launcher these bytes."""

    class Breach(Puppet):
        def on_call(self, front: socket.socket, call: frames.Call) -> None:
            assert self.launcher is not None
            self.launcher.sendall(data)

    return Breach.program


def to_egress(data: bytes) -> Program:
    """Make a worker that sends egress these bytes."""

    class Breach(Puppet):
        def on_call(self, front: socket.socket, call: frames.Call) -> None:
            assert self.egress is not None
            self.egress.sendall(data)

    return Breach.program


def ask(method: str, **params: object) -> bytes:
    """A call that the launcher or egress is asked."""
    return encode(frames.Call(1, method, msgspec.json.encode(params)))


def held(number: int) -> bytes:
    """A call that egress does not end, since nobody takes more than its first piece."""
    said = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    params = {"model": "builtin/echo", "messages": [said], "stream": True}
    return encode(frames.Call(number, "model", msgspec.json.encode(params), credit=1))


class HandsOver(Puppet):
    """It hands the launcher descriptors, as many as it can, and says what came of it."""

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        assert self.launcher_channel is not None
        bomb = [0] * limits.DESCRIPTORS_PER_MESSAGE_MAX
        try:
            for _ in range(1000):
                descriptors.send(self.launcher_channel, b"1", bomb)
        except OSError as error:
            front.sendall(encode(frames.Result(call.id, b'{"errno":%d}' % (error.errno or 0))))


class TearsSupervisorLink(Puppet):
    """It closes its link to the supervisor in the middle of a frame, and lives on."""

    last_words = TORN

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        self.supervisor.sendall(self.last_words)
        self.supervisor.close()
        pause()


class ClosesSupervisorLink(TearsSupervisorLink):
    last_words = b""


class FloodsSupervisor(Puppet):
    """It asks for signs of life as fast as it can, and reads none."""

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        pings = b"".join(encode(frames.Ping(nonce)) for nonce in range(1, 1001))
        try:
            while True:
                self.supervisor.sendall(pings)
        except OSError:
            pause()


class TearsFrontLink(Puppet):
    """It closes its link to the front in the middle of a frame, and takes the next one."""

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        front.sendall(TORN)
        front.close()


class ClosesFrontLink(Puppet):
    """It closes every link to the front at its first call; see `TearsFrontLink`."""

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        front.close()


class TakesNoFront(Puppet):
    """It closes every link to the front when it comes."""

    def on_front(self, front: socket.socket) -> None:
        front.close()


class ClosesChannel(Puppet):
    """It closes what the links to fronts come on, before anybody can send one."""

    def before_ready(self) -> None:
        self.channel.close()


PROGRAMS: dict[str, Program] = {
    # To the supervisor.
    "torn-to-supervisor": TearsSupervisorLink.program,
    "huge-to-supervisor": to_supervisor(HUGE),
    "unknown-to-supervisor": to_supervisor(UNKNOWN),
    "garbage-to-supervisor": to_supervisor(GARBAGE),
    "calls-supervisor": to_supervisor(CALL),
    "answers-supervisor": to_supervisor(encode(frames.Result(NEVER_ASKED, b"{}"))),
    "drained-unasked": to_supervisor(encode(frames.Drained())),
    "pong-unasked": to_supervisor(encode(frames.Pong(NEVER_ASKED))),
    "foreign-event": to_supervisor(EVENT),
    "idle-too-early": to_supervisor(IDLE),
    "idle-nonsense": to_supervisor(IDLE_NONSENSE),
    "floods-supervisor": FloodsSupervisor.program,
    "closes-supervisor-link": ClosesSupervisorLink.program,
    # To the front.
    "huge-to-front": to_front(lambda _: HUGE),
    "unknown-to-front": to_front(lambda _: UNKNOWN),
    "calls-front": to_front(lambda _: CALL),
    "answer-never-asked": to_front(lambda call: encode(frames.Result(call.id + NEVER_ASKED, b""))),
    "answers-twice": to_front(lambda call: encode(frames.Result(call.id, b"{}")) * 2),
    "chunk-unasked": to_front(lambda call: encode(frames.Chunk(call.id, b"{}"))),
    "chunk-too-big": to_front(
        lambda call: encode(frames.Chunk(call.id, b" " * (limits.CHUNK_BYTES_MAX + 1)))
    ),
    "failure-nonsense": to_front(
        lambda call: encode(frames.Failure(call.id, "NOT_FOUND", "gone", b"[1"))
    ),
    "tears-front-link": TearsFrontLink.program,
    "closes-front-link": ClosesFrontLink.program,
    # To the launcher.
    "huge-to-launcher": to_launcher(HUGE),
    "unknown-to-launcher": to_launcher(UNKNOWN),
    "answers-launcher": to_launcher(encode(frames.Result(NEVER_ASKED, b"{}"))),
    "tells-launcher": to_launcher(EVENT),
    "launcher-call-twice": to_launcher(ask("list") * 2),
    "launcher-unknown-call": to_launcher(ask("tenant.end", tenant="globex")),
    "launcher-mode": to_launcher(ask("run", argv=["true"], mode="none", wallSeconds=1)),
    "launcher-name": to_launcher(
        ask("run", argv=["true"], mode="bubblewrap", wall_seconds=1, name="../../globex")
    ),
    "launcher-other-uid": to_launcher(
        ask("run", argv=["true"], mode="bubblewrap", wall_seconds=1, uid=0)
    ),
    "floods-launcher": to_launcher(
        b"".join(encode(frames.Call(number, "list", b"{}")) for number in range(1, 2001))
    ),
    # To egress.
    "huge-to-egress": to_egress(HUGE),
    "unknown-to-egress": to_egress(UNKNOWN),
    "garbage-to-egress": to_egress(GARBAGE),
    "answers-egress": to_egress(encode(frames.Result(NEVER_ASKED, b"{}"))),
    "tells-egress": to_egress(EVENT),
    "drains-egress": to_egress(encode(frames.Drain(1.0))),
    "egress-call-twice": to_egress(ask("models") * 2),
    "egress-unknown-call": to_egress(ask("quota.use", tenant="globex")),
    "floods-egress": to_egress(
        b"".join(held(number) for number in range(1, limits.CALLS_IN_FLIGHT_MAX + 2))
    ),
    "hands-over": HandsOver.program,
    "takes-no-front": TakesNoFront.program,
    "closes-channel": ClosesChannel.program,
}

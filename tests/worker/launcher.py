"""A launcher's end of what it shares with a worker: it says what the test tells it to."""

import os
import socket
from typing import Any

import msgspec

from protocol import aio, descriptors, frames, launching
from protocol.errors import ErrorCode, GatewayError
from protocol.link import REQUESTS

CEILINGS = launching.Ceilings(
    modes=("bubblewrap", "docker"),
    default_mode="bubblewrap",
    images=("base", "python"),
    sandbox=launching.Caps(memory_bytes=2**29, cpus=1.0, pids=128),
    wall_seconds=100.0,
    concurrent=4,
    queued=32,
    terminals=4,
    terminal_idle_seconds=900.0,
    file_bytes=2**30,
)
RAN = launching.Ran(sandbox_id="5b", mode="bubblewrap", exit_code=0, wall_ms=7)
RUNS = launching.Running(
    sandbox_id="5a",
    kind="run",
    name="main",
    mode="bubblewrap",
    argv=("sleep", "9"),
    started_at_ms=1_800_000_000_000,
    generation=1,
    caps=launching.Caps(pids=128),
)


class LauncherEnd:
    """Answers `run` by writing `output`, and the other calls by what there is in `says`."""

    def __init__(self, ceilings: launching.Ceilings = CEILINGS) -> None:
        self.ceilings = ceilings
        self.asked: list[launching.Spec] = []
        self.output = (b"out\n", b"")
        self.ran = RAN
        self.runs: tuple[launching.Running, ...] = (RUNS,)
        self.says: dict[str, Any] = {
            "status": launching.Engines(
                engines=tuple(
                    launching.Engine(mode=mode, usable=True, detail="is there")
                    for mode in ceilings.modes
                ),
                ceilings=ceilings,
                cgroups=True,
            ),
        }

    async def meet(self, worker: socket.socket) -> None:
        """Have the worker know it, over our end of the worker's descriptor channel."""
        link, theirs = socket.socketpair()
        self._channel, their_channel = descriptors.pair()
        with theirs, their_channel:
            payload = launching.LAUNCHER + msgspec.msgpack.encode(self.ceilings)
            descriptors.send(worker, payload, [theirs.fileno(), their_channel.fileno()])
        self.end = await aio.attach(link, REQUESTS, self)

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        if call.method == "run":
            self._run(end, call)
            return
        if call.method == "kill":
            named = msgspec.json.decode(call.params, type=launching.Named)
            if named.sandbox_id not in (each.sandbox_id for each in self.runs):
                end.fail(call.id, GatewayError(ErrorCode.NOT_FOUND, "no such sandbox runs"))
                return
        said = {"list": launching.Sandboxes(running=self.runs, queued=2), "kill": {"ok": True}}
        answer = (self.says | said).get(call.method)
        if answer is None:
            end.fail(call.id, GatewayError(ErrorCode.NOT_FOUND, "no such terminal"))
            return
        end.link.result(call.id, msgspec.json.encode(answer))
        end.flush()

    def _run(self, end: aio.LinkEnd, call: frames.Call) -> None:
        spec = msgspec.json.decode(call.params, type=launching.Spec)
        self.asked.append(spec)
        pipes = [os.pipe() for _ in range(3)]
        outer = (pipes[0][1], pipes[1][0], pipes[2][0])
        for descriptor in outer:
            os.set_blocking(descriptor, False)
        descriptors.send(self._channel, str(spec.stdio).encode(), outer)
        for descriptor, data in zip((pipes[1][1], pipes[2][1]), self.output, strict=True):
            os.write(descriptor, data)
        for descriptor in (*outer, pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(descriptor)
        end.link.result(call.id, msgspec.json.encode(self.ran))
        end.flush()

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker cancelled {call_id}")

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker granted credit to {call_id}")

    def on_notice(self, end: aio.LinkEnd, frame: object) -> None:
        raise AssertionError(frame)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        self._channel.close()

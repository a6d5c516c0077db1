"""A worker as far as it has to be: ready, it answers pings, and every call with `{}`.

Blocking sockets instead of an event loop, so that whoever derives from it sends what he likes.
"""

import faulthandler
import os
import select
import socket
import time
from collections.abc import Callable
from typing import NoReturn

from protocol import descriptors, frames
from protocol.codec import FrameDecoder, encode
from protocol.descriptors import WorkerDescriptors
from protocol.egress import EGRESS
from protocol.launching import LAUNCHER

Program = Callable[[bytes, WorkerDescriptors], object]
"""What a worker runs: see `worker.main.run`."""

READ_BYTES = 65536
PATIENCE_SECONDS = 60.0


def pause(seconds: float = PATIENCE_SECONDS) -> None:
    """Do nothing, and hear nothing meanwhile: what makes a worker late or deaf."""
    time.sleep(seconds)


class Puppet:
    """One worker; what it does wrong is in who derives from it."""

    def __init__(self, fds: WorkerDescriptors) -> None:
        self.fds = fds
        self.supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds.supervisor)
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds.channel)
        self.front: socket.socket | None = None
        self.launcher: socket.socket | None = None
        self.launcher_channel: socket.socket | None = None
        self.egress: socket.socket | None = None
        self.hears_supervisor = True
        self._decoders = {self.supervisor: FrameDecoder()}

    @classmethod
    def program(cls, _spec: bytes, fds: WorkerDescriptors) -> NoReturn:
        cls(fds).run()

    def run(self) -> NoReturn:
        faulthandler.enable(2)
        self.before_ready()
        os.write(self.fds.ready, b"1")
        os.close(self.fds.ready)
        self.after_ready()
        while True:
            self._turn()

    # What may go wrong.

    def before_ready(self) -> None:
        """Whatever comes before the readiness byte."""

    def after_ready(self) -> None:
        """Whatever comes right after it."""

    def on_front(self, front: socket.socket) -> None:
        """A front's link has come."""
        self.front = front
        self._decoders = {self.supervisor: self._decoders[self.supervisor], front: FrameDecoder()}

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        front.sendall(encode(frames.Result(call.id, b"{}")))

    def on_drain(self) -> None:
        self.supervisor.sendall(encode(frames.Drained()))
        os._exit(0)

    # Inside.

    def _turn(self) -> None:
        sources = [self.supervisor] if self.hears_supervisor else []
        sources += [sock for sock in (self.channel, self.front) if sock and sock.fileno() >= 0]
        for source in select.select(sources, [], [])[0]:
            if source is self.channel:
                self._take_ends()
            elif source.fileno() >= 0:
                self._read(source)

    def _take_ends(self) -> None:
        try:
            payload, received = descriptors.receive(self.channel)
        except (EOFError, OSError):
            self.channel.close()
            return
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, received[0])
        if payload.startswith(LAUNCHER):
            self.launcher = link
            self.launcher_channel = socket.socket(
                socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, received[1]
            )
        elif payload.startswith(EGRESS):
            self.egress = link
        else:
            self.on_front(link)

    def _read(self, source: socket.socket) -> None:
        data = source.recv(READ_BYTES)
        if not data and source is self.supervisor:
            os._exit(1)
        elif not data:
            source.close()
        for frame in self._decoders[source].feed(data):
            match frame:
                case frames.Ping(nonce):
                    self.supervisor.sendall(encode(frames.Pong(nonce)))
                case frames.Drain():
                    self.on_drain()
                case frames.Call():
                    self.on_call(source, frame)
                case _:
                    pass

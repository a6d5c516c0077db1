"""The front's way from exec to exit.

Started as `python -m supervisor.front <link> <channel>`: the descriptors of its end of the data
link to the supervisor and of its end of the descriptor channel. The first message on the channel is
a `FrontSpec` in MessagePack with the listening socket. It ends with 0 once it is drained, and when
the link to the supervisor ends.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

# Before uvloop: libuv asks once. The policy of system calls has no io_uring.
os.environ["UV_USE_IO_URING"] = "0"

import msgspec
import uvloop

from protocol import aio, descriptors, frames, limits
from protocol.spawn import FrontSpec
from supervisor.front.connection import Connection
from supervisor.front.handshake import TlsReception
from supervisor.front.links import FROM_SUPERVISOR, SupervisorLink, take_links
from supervisor.front.log import Log
from supervisor.front.service import Front
from supervisor.zygote import linux
from supervisor.zygote.title import set_title

TITLE: Final = "openclaw: front"
MALLOC_KEPT_BYTES: Final = 128 * limits.MIB
LISTEN_BACKLOG: Final = 1024
LOAD_SECONDS: Final = 2.0
EXIT_USAGE: Final = 78

Confine = Callable[[FrontSpec, int, frozenset[int]], None]
"""Gives up every right the front does not need, or ends the process.

Called with the spec, the descriptor of the supervisor's link, and the other descriptors to keep.
"""


def main(arguments: Sequence[str], confine: Confine) -> int:
    """Run one front to its end; gives its exit code.

    Args:
        arguments: The two descriptors.
        confine: Takes effect after the first message and before any client is heard.
    """
    set_title(TITLE)
    # Else every large body or answer is given back to the kernel and faulted in for the next, which
    # holds up everybody for longer than it takes to copy it.
    linux.keep_freed_memory(MALLOC_KEPT_BYTES)
    # Often sent to every process at once; the supervisor ends us when our clients are served.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        link_descriptor, channel_descriptor = (int(text) for text in arguments)
    except ValueError:
        os.write(2, b"usage: python -m supervisor.front <link descriptor> <channel descriptor>\n")
        return EXIT_USAGE
    channel = socket.socket(fileno=channel_descriptor)
    payload, (listener_descriptor,) = descriptors.receive(channel, 1)
    spec = msgspec.msgpack.decode(payload, type=FrontSpec)
    confine(spec, link_descriptor, frozenset({channel_descriptor, listener_descriptor}))
    channel.setblocking(False)
    gc.freeze()  # what was imported stays, and is not looked through while clients wait
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(
            serve(
                spec,
                socket.socket(fileno=link_descriptor),
                channel,
                socket.socket(fileno=listener_descriptor),
            )
        )


async def serve(
    spec: FrontSpec, link: socket.socket, channel: socket.socket, listener: socket.socket
) -> int:
    """Serve until drained or until the supervisor is gone; gives the exit code."""
    log = Log()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: log.broken("event loop", _cause(context))
    )
    front = Front(spec, log)
    handler = SupervisorLink(front)
    front.supervisor = end = await aio.attach(link, FROM_SUPERVISOR, handler)
    links = take_links(front, channel)
    log.info("start", version=spec.version)
    # Clients wait in the listening socket's queue meanwhile; should loading take too long, they
    # are better served with an error.
    await _first(LOAD_SECONDS, handler.closed, front.ready, front.drain_begun)
    if not handler.closed.is_set() and not front.draining:
        server = await _receive(front, listener)
        await _first(None, handler.closed, front.drain_begun)
        server.close()
    else:
        listener.close()
    await _first(None, handler.closed, front.drained)
    if not handler.closed.is_set():
        front.counts.report()
        end.link.send(frames.Drained())
        end.finish()
        await handler.closed.wait()
    links.close()
    return 0


async def _receive(front: Front, listener: socket.socket) -> asyncio.Server | TlsReception:
    # Those who come have it from the listening socket. Else there would be megabytes of each.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits.HTTP_RECEIVE_BUFFER_BYTES)
    if front.tls is not None:
        return TlsReception(front, listener, front.tls)
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(front), sock=listener, backlog=LISTEN_BACKLOG
    )


async def _first(seconds: float | None, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _cause(context: dict[str, Any]) -> BaseException:
    error = context.get("exception")
    return error if isinstance(error, BaseException) else RuntimeError()

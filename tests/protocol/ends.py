"""Link ends over real socketpairs, under both event loops."""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from protocol import aio, frames
from protocol.aio import LinkEnd
from tests.protocol.pair import EVERYTHING

SECONDS_MAX = 20.0
opened: ContextVar[AsyncExitStack] = ContextVar("opened")
"""What the running test has to leave closed: uvloop's own end waits for it."""

OnCall = Callable[[LinkEnd, frames.Call], None]


def under_both_loops(test: Callable[[], Awaitable[None]]) -> Any:
    """Run an async test under asyncio's own loop and under uvloop; no error may reach the loop."""

    @pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    @functools.wraps(test)
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        escaped: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: escaped.append(what))
            async with asyncio.timeout(SECONDS_MAX), AsyncExitStack() as stack:
                opened.set(stack)
                await test()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(bounded())
        assert escaped == []

    # pytest would take the wrapped test's parameters, which are none.
    del run.__wrapped__
    return run


@contextmanager
def loop_errors() -> Iterator[list[str]]:
    """Collect what is reported to the loop meanwhile, where a test means it to be."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    messages: list[str] = []
    loop.set_exception_handler(lambda _, what: messages.append(repr(what.get("exception"))))
    try:
        yield messages
    finally:
        loop.set_exception_handler(handler)


class Owner:
    """A `LinkHandler` that keeps what it hears; `methods` says what is done about calls."""

    def __init__(self, **methods: OnCall) -> None:
        self.methods = methods
        self.calls: list[frames.Call] = []
        self.cancelled: list[int] = []
        self.credited: list[int] = []
        self.notices: asyncio.Queue[frames.Frame] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.reason: Exception | None = None
        self._heard = asyncio.Event()

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        self.calls.append(call)
        self._heard.set()
        if call.method in self.methods:
            self.methods[call.method](end, call)

    def on_cancel(self, end: LinkEnd, call_id: int) -> None:
        self.cancelled.append(call_id)
        self._heard.set()

    def on_credit(self, end: LinkEnd, call_id: int) -> None:
        self.credited.append(call_id)
        self._heard.set()

    def on_notice(
        self, end: LinkEnd, frame: frames.Event | frames.Drain | frames.Drained | frames.Pong
    ) -> None:
        self.notices.put_nowait(frame)

    def on_closed(self, end: LinkEnd, reason: Exception | None) -> None:
        assert not self.closed.is_set()
        self.reason = reason
        self.closed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a call, a cancel or a credit after which `condition` holds."""
        while not condition():
            self._heard.clear()
            await self._heard.wait()


async def join(
    left: Owner, right: Owner, accepts: frozenset[type] = EVERYTHING
) -> tuple[LinkEnd, LinkEnd]:
    """Two ends over one socketpair."""
    one, other = socket.socketpair()
    return await attach(one, accepts, left), await attach(other, accepts, right)


async def join_raw(owner: Owner) -> tuple[LinkEnd, socket.socket]:
    """One end, and the plain socket of a peer that does as it likes."""
    one, other = socket.socketpair()
    other.setblocking(False)
    opened.get().enter_context(other)
    return await attach(one, EVERYTHING, owner), other


async def attach(sock: socket.socket, accepts: frozenset[type], owner: Owner) -> LinkEnd:
    end = await aio.attach(sock, accepts, owner)

    async def close() -> None:
        end.close()
        await owner.closed.wait()

    opened.get().push_async_callback(close)
    return end


async def read_until_closed(sock: socket.socket) -> bytes:
    """All that comes until the other side is gone."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    try:
        while piece := await loop.sock_recv(sock, 2**18):
            data += piece
    except ConnectionError:
        pass
    return bytes(data)


async def turns(count: int) -> None:
    """Let the loop turn; uvloop writes only at the end of one."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned

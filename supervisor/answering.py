"""How a process that all tenants share answers on its links: to the supervisor, and to workers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from protocol import aio, frames
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from supervisor.front.log import Log

REASON_CHARS_MAX: Final = 512


class Owner(Protocol):
    """Who answers."""

    @property
    def asked(self) -> Mapping[str, Callable[[bytes], Awaitable[bytes]]]:
        """What the supervisor may ask, by method: its parameters as JSON to the result as JSON."""

    @property
    def told(self) -> Mapping[str, Callable[[bytes], None]]:
        """What it tells, by topic."""


class SupervisorLink:
    """What the supervisor says; its end is ours. Implements `protocol.aio.LinkHandler`.

    Args:
        name: What the process is called.
        log: For faults of ours.
    """

    def __init__(self, name: str, log: Log) -> None:
        self.owner: Owner | None = None
        """Who answers; from before the link is there."""
        self.closed: Final = asyncio.Event()
        self._name: Final = name
        self._log: Final = log
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        task = asyncio.get_running_loop().create_task(self._answer(end, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, end: aio.LinkEnd, call: frames.Call) -> None:
        assert self.owner is not None
        try:
            body = await self.owner.asked[call.method](call.params)
        except Exception as error:  # noqa: BLE001 - who asks is told, and does not wait
            if end.link.is_serving(call.id):
                end.fail(call.id, refusal(error, call.method, self._name, self._log))
            return
        if end.link.is_serving(call.id):
            end.link.result(call.id, body)
            end.flush()

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. What it asks for is short, or ends all the same."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Nothing is streamed to the supervisor."""

    def on_notice(self, end: aio.LinkEnd, frame: object) -> None:
        """See `LinkHandler`."""
        if isinstance(frame, frames.Event) and self.owner is not None:
            take = self.owner.told.get(frame.topic)
            if take is not None:
                take(frame.body)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`."""
        self.closed.set()


def refusal(error: BaseException, what: str, name: str, log: Log) -> GatewayError:
    """Give what is told of what was raised; a fault of ours is logged, and no more said of it."""
    if isinstance(error, GatewayError):
        return error
    log.broken(what, error)
    return GatewayError(ErrorCode.INTERNAL, f"internal error of {name}")


def answer(
    end: aio.LinkEnd,
    call_id: int,
    task: "asyncio.Task[bytes]",
    name: str,
    log: Log,
    *,
    streams: bool = False,
) -> None:
    """Answer a worker's call with what its task has come to; a breach ends the link.

    Args:
        end: The worker's link.
        call_id: The call.
        task: Which is done.
        name: What the process is called.
        log: For faults of ours.
        streams: Whether the call took chunks.
    """
    error = None if task.cancelled() else task.exception()
    if isinstance(error, RemoteProtocolError):
        end.close(error)
        return
    told = None if error is None else refusal(error, "call", name, log)
    if not end.link.is_serving(call_id):
        return  # the link has ended
    if task.cancelled():
        end.fail(call_id, GatewayError(ErrorCode.CANCELLED, "the caller has gone away"))
    elif told is not None:
        end.fail(call_id, told)
    else:
        (end.link.end if streams else end.link.result)(call_id, task.result())
        end.flush()


def breach(reason: Exception | None) -> str | None:
    """Give what a worker did wrong, by how its link has ended; None for nothing."""
    # Closed with something unread, it looks reset; that is no breach.
    if reason is None or isinstance(reason, OSError):
        return None
    return str(reason)[:REASON_CHARS_MAX]

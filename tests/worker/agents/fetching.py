"""Egress's end of a link to a worker: notes what it is asked, and allows one host."""

import socket
from typing import Any

import msgspec

from protocol import descriptors, frames
from protocol.aio import LinkEnd, attach
from protocol.egress import EGRESS, FetchAnswer
from protocol.errors import ErrorCode, GatewayError
from protocol.link import REQUESTS

ALLOWED = "http://allowed.example/"


class EgressEnd:
    """See the module."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer = FetchAnswer(
            url=ALLOWED, status=200, content_type="text/plain", body="hello", truncated=False
        )

    async def meet(self, channel: socket.socket) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            descriptors.send(channel, EGRESS, [theirs.fileno()])
        self._end = await attach(mine, REQUESTS, self)

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        params = msgspec.json.decode(call.params)
        self.asked.append((call.method, params))
        if call.method == "fetch" and params["url"].startswith(ALLOWED):
            end.link.result(call.id, msgspec.json.encode(self.answer))
        else:
            why = "url: this host is not allowed"
            end.fail(call.id, GatewayError(ErrorCode.FORBIDDEN, why))
        end.flush()

    def on_cancel(self, end: LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker cancelled {call_id}")

    def on_credit(self, end: LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker granted credit to {call_id}")

    def on_notice(self, end: LinkEnd, frame: frames.Frame) -> None:
        raise AssertionError(f"the worker sent {frame}")

    def on_closed(self, end: LinkEnd, reason: Exception | None) -> None:
        pass

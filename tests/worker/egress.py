"""Egress's end of its link to a worker: it says what the test tells it to."""

import asyncio
import socket

import msgspec

from protocol import aio, descriptors, frames
from protocol.egress import EGRESS
from protocol.errors import GatewayError
from protocol.link import REQUESTS
from protocol.models import (
    EmbedAnswer,
    ModelAnswer,
    ModelPiece,
    ModelRequest,
    ModelShown,
    Spent,
)
from protocol.usage import (
    DaysAsked,
    MonthsAsked,
    ProvidersAsked,
    Question,
    ReportAsked,
    SessionsAsked,
)

ANSWER = ModelAnswer(
    model="gpt",
    stop_reason="stop",
    spent=Spent(input=3, output=2),
    cost_micro_usd=5,
    text="hello",
)
USED: dict[type, bytes] = {
    MonthsAsked: b"{}",
    DaysAsked: b'{"days":{},"models":[]}',
    ProvidersAsked: b"[]",
    SessionsAsked: b"[]",
    ReportAsked: b'{"rows":[]}',
}
"""What is answered about use: there was none."""


class EgressEnd:
    """Answers `model` by `pieces` to who streams, and `answer`; unless it `holds`.

    Attributes:
        requests: What was asked of models.
        calls: The calls that were not answered yet.
    """

    def __init__(self) -> None:
        self.pieces = [ModelPiece(text="hel"), ModelPiece(text="lo")]
        self.answer: ModelAnswer | GatewayError = ANSWER
        self.holds = False
        self.requests: list[ModelRequest] = []
        self.calls: asyncio.Queue[frames.Call] = asyncio.Queue()
        self.cancelled: asyncio.Queue[int] = asyncio.Queue()
        self.credited: asyncio.Queue[int] = asyncio.Queue()
        self.end: aio.LinkEnd

    async def meet(self, worker: socket.socket) -> None:
        """Have the worker know it, over our end of the worker's descriptor channel."""
        link, theirs = socket.socketpair()
        with theirs:
            descriptors.send(worker, EGRESS, [theirs.fileno()])
        self.end = await aio.attach(link, REQUESTS, self)

    def say(self, call: frames.Call, *pieces: ModelPiece) -> None:
        """Send pieces of an answer."""
        for piece in pieces:
            self.end.link.chunk(call.id, msgspec.json.encode(piece))
        self.end.flush()

    def finish(self, call: frames.Call) -> None:
        """Send its end."""
        if isinstance(self.answer, GatewayError):
            self.end.fail(call.id, self.answer)
        elif call.credit:
            last = msgspec.structs.replace(self.answer, text="")
            self.end.link.end(call.id, msgspec.json.encode(last))
        else:
            self.end.link.result(call.id, msgspec.json.encode(self.answer))
        self.end.flush()

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        match call.method:
            case "models":
                shown = [ModelShown(id="gpt", provider="openai")]
                end.link.result(call.id, msgspec.json.encode(shown))
            case "embed":
                made = EmbedAnswer(
                    model="gpt", vectors=((1.0, 0.5),), spent=Spent(input=1), cost_micro_usd=1
                )
                end.link.result(call.id, msgspec.json.encode(made))
            case "model":
                self.requests.append(msgspec.json.decode(call.params, type=ModelRequest))
                if self.holds:
                    self.calls.put_nowait(call)
                    return
                if call.credit and not isinstance(self.answer, GatewayError):
                    self.say(call, *self.pieces)
                self.finish(call)
            case "usage":
                asked = msgspec.json.decode(call.params, type=Question).asked
                end.link.result(call.id, USED[type(asked)])
            case "keys":
                end.link.result(call.id, b"[]")
            case "key.set":
                end.link.result(call.id, b"true")
            case other:
                raise AssertionError(f"the worker asked for {other}")
        end.flush()

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        self.cancelled.put_nowait(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        self.credited.put_nowait(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        raise AssertionError(f"the worker said {frame}")

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        pass

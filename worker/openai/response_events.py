"""The events of a streamed response (https://platform.openai.com/docs/api-reference/responses-streaming)."""

from typing import Any, Final

from protocol.errors import GatewayError
from protocol.models import AskedTool, ModelAnswer, ModelPiece, ToolPiece
from worker.openai import shapes
from worker.openai.response_shape import (
    ResponseShape,
    function_item,
    message_item,
    text_part,
)
from worker.openai.shapes import json


class _Call:
    """A call of a function, as it comes in."""

    def __init__(self, position: int) -> None:
        self.position: Final = position
        self.item_id: Final = shapes.new_id("fc_")
        self.id = self.name = ""
        self.arguments: Final[list[str]] = []

    def item(self, status: str) -> dict[str, Any]:
        asked = AskedTool(id=self.id, name=self.name, arguments="".join(self.arguments))
        return function_item(self.item_id, status, asked)


class Events:
    """Writes the events of one response; an `outlet.Writer`.

    Args:
        shape: The response.

    Attributes:
        begun: Whether something has been written.
    """

    def __init__(self, shape: ResponseShape) -> None:
        self._shape: Final = shape
        self.begun = False
        self._number = 0
        self._items = 0
        # The message, and its place among the items.
        self._texts: list[str] = []
        self._position = -1
        self._delta_head = b""
        self._calls: Final[dict[int, _Call]] = {}

    def piece(self, piece: ModelPiece) -> list[bytes]:
        """See `Writer`. What a model thinks is not shown."""
        said = self._begin()
        if piece.text:
            said += self._add_text(piece.text)
        for tool in piece.tools:
            said += self._add_call(tool)
        return said

    def end(self, answer: ModelAnswer) -> list[bytes]:
        """See `Writer`."""
        said = self._begin()
        if not self._items:
            said += self._open_message()
        items = {}
        if self._position >= 0:
            items[self._position] = self._close_message(said)
        for call in self._calls.values():
            items[call.position] = self._close_call(call, said)
        output = [items[position] for position in sorted(items)]
        response = self._shape.whole(answer, output)
        said.append(self._event(f"response.{response['status']}", response=response))
        return said

    def failed(self, error: GatewayError) -> list[bytes]:
        """See `Writer`. What has not begun is refused by its status."""
        if not self.begun:
            return []
        return [self._event("response.failed", response=self._shape.failed(error))]

    # Inside.

    def _event(self, name: str, /, **members: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return json({"type": name, "sequence_number": number, **members})

    def _begin(self) -> list[bytes]:
        if self.begun:
            return []
        self.begun = True
        response = self._shape.begun()
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _place(self) -> int:
        self._items += 1
        return self._items - 1

    def _add_text(self, text: str) -> list[bytes]:
        said = self._open_message() if self._position < 0 else []
        self._texts.append(text)
        number, self._number = self._number, self._number + 1
        said.append(b'%b%d,"delta":%b}' % (self._delta_head, number, json(text)))
        return said

    def _open_message(self) -> list[bytes]:
        self._position = position = self._place()
        item_id = self._shape.message_id
        # What all its deltas have in common is encoded once.
        self._delta_head = (
            b'{"type":"response.output_text.delta","item_id":%b,"output_index":%d,'
            b'"content_index":0,"logprobs":[],"sequence_number":' % (json(item_id), position)
        )
        item = message_item(item_id, "in_progress", None)
        return [
            self._event("response.output_item.added", output_index=position, item=item),
            self._event(
                "response.content_part.added",
                item_id=item_id,
                output_index=position,
                content_index=0,
                part=text_part(""),
            ),
        ]

    def _close_message(self, said: list[bytes]) -> dict[str, Any]:
        text, item_id = "".join(self._texts), self._shape.message_id
        where = {"item_id": item_id, "output_index": self._position, "content_index": 0}
        item = message_item(item_id, "completed", text)
        said += [
            self._event("response.output_text.done", **where, text=text, logprobs=[]),
            self._event("response.content_part.done", **where, part=text_part(text)),
            self._event("response.output_item.done", output_index=self._position, item=item),
        ]
        return item

    def _add_call(self, tool: ToolPiece) -> list[bytes]:
        said = []
        call = self._calls.get(tool.index)
        if call is None:
            call = self._calls[tool.index] = _Call(self._place())
            call.id, call.name = tool.id, tool.name
            item = call.item("in_progress")
            said.append(
                self._event("response.output_item.added", output_index=call.position, item=item)
            )
        if tool.arguments:
            call.arguments.append(tool.arguments)
            said.append(
                self._event(
                    "response.function_call_arguments.delta",
                    item_id=call.item_id,
                    output_index=call.position,
                    delta=tool.arguments,
                )
            )
        return said

    def _close_call(self, call: _Call, said: list[bytes]) -> dict[str, Any]:
        item = call.item("completed")
        said += [
            self._event(
                "response.function_call_arguments.done",
                item_id=call.item_id,
                output_index=call.position,
                name=call.name,
                arguments=item["arguments"],
            ),
            self._event("response.output_item.done", output_index=call.position, item=item),
        ]
        return item

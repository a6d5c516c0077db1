"""The response object of the Responses API."""

from typing import Any, Final

from protocol.errors import GatewayError
from protocol.models import AskedTool, ModelAnswer, Spent, StopReason
from worker.openai import shapes
from worker.openai.bodies import ResponseBody

_INCOMPLETE: Final[dict[StopReason, str]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


class ResponseShape:
    """One response, as it is shown from its beginning to its end.

    Args:
        body: What it answers, which it repeats.
        created: When, Unix seconds.
    """

    def __init__(self, body: ResponseBody, created: int) -> None:
        self.message_id: Final = shapes.new_id("msg_")
        self._body: Final = body
        self._always: Final = {
            "id": shapes.new_id("resp_"),
            "object": "response",
            "created_at": created,
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {
                "effort": None if body.reasoning is None else body.reasoning.effort,
                "summary": None,
            },
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"} if body.text is None else body.text.format},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or (),
            "top_p": body.top_p,
            "truncation": "disabled",
            "user": body.user,
        }

    def begun(self) -> dict[str, Any]:
        """Give it before anything has been said."""
        return self._shown("in_progress", self._body.model, [])

    def whole(self, answer: ModelAnswer, output: list[dict[str, Any]] | None = None) -> Any:
        """Give it as it is in the end.

        Args:
            answer: What was said.
            output: The items, if they were made as it was said.
        """
        reason = _INCOMPLETE.get(answer.stop_reason)
        if output is None:
            output = self._items(answer)
        status = "incomplete" if reason else "completed"
        shown = self._shown(status, answer.model, output)
        shown["incomplete_details"] = {"reason": reason} if reason else None
        shown["usage"] = usage(answer.spent)
        return shown

    def failed(self, error: GatewayError) -> dict[str, Any]:
        """Give it when it broke off."""
        shown = self._shown("failed", self._body.model, [])
        shown["error"] = {"code": "server_error", "message": error.message}
        return shown

    def _shown(self, status: str, model: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._always,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": output,
            "usage": None,
        }

    def _items(self, answer: ModelAnswer) -> list[dict[str, Any]]:
        items = []
        if answer.text or not answer.tool_calls:
            items.append(message_item(self.message_id, "completed", answer.text))
        items += [
            function_item(shapes.new_id("fc_"), "completed", call) for call in answer.tool_calls
        ]
        return items


def message_item(item_id: str, status: str, text: str | None) -> dict[str, Any]:
    """Give what was said as an item; None: nothing has been yet."""
    content = [] if text is None else [text_part(text)]
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(text: str) -> dict[str, Any]:
    """Give a text as a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def function_item(item_id: str, status: str, call: AskedTool) -> dict[str, Any]:
    """Give a call of a function as an item."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def usage(spent: Spent) -> dict[str, Any]:
    """Give what was used as the Responses API tells it."""
    used, made = shapes.prompt_tokens(spent), shapes.completion_tokens(spent)
    return {
        "input_tokens": used,
        "input_tokens_details": shapes.prompt_details(spent),
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": spent.reasoning},
        "total_tokens": used + made,
    }

"""What a call is let in with: all that a provider is sent bounds it."""

from typing import Any

import msgspec
import pytest

from protocol.egress import Model
from protocol.models import ModelRequest
from supervisor.egress.asking import estimate

WORDS = "日本" * 1000
MODEL = Model(provider="fake", upstream_model="fake")


def tokens(message: dict[str, Any], **more: Any) -> int:
    asked = {"model": "fake", "messages": [{"role": "user"} | message], **more}
    return estimate(msgspec.convert(asked, ModelRequest), MODEL).input_tokens


@pytest.mark.parametrize(
    ("message", "more"),
    [
        ({"content": [{"type": "text", "text": WORDS}]}, {}),
        ({"name": WORDS}, {}),
        ({"tool_call_id": WORDS}, {}),
        ({"tool_calls": [{"id": WORDS, "name": "a", "arguments": "{}"}]}, {}),
        ({"tool_calls": [{"id": "a", "name": WORDS, "arguments": "{}"}]}, {}),
        ({"tool_calls": [{"id": "a", "name": "a", "arguments": WORDS}]}, {}),
        ({}, {"tools": [{"name": "a", "description": WORDS}]}),
        ({}, {"response_format": {"type": "json_schema", "json_schema": {"description": WORDS}}}),
    ],
)
def test_every_text_that_goes_in_counts_by_its_bytes(
    message: dict[str, Any], more: dict[str, Any]
) -> None:
    assert tokens(message, **more) >= len(WORDS.encode()) + tokens({})

"""A provider's client, as tests ask it."""

import ssl
from typing import Any, NamedTuple

import msgspec

from protocol import egress
from protocol.models import (
    AskedTool,
    ChatMessage,
    ModelPiece,
    ModelRequest,
    OfferedTool,
    TextBlock,
)
from supervisor.egress.client import Client
from supervisor.egress.providers.anthropic import Anthropic
from supervisor.egress.providers.openai import OpenAI
from supervisor.egress.upstream import Finish, Target, Upstream
from tests.upstream.fake import FakeUpstream

KEY = "sk-canary-4f1d9c77ab"
UPSTREAMS: dict[str, type[OpenAI] | type[Anthropic]] = {"openai": OpenAI, "anthropic": Anthropic}
TRUST = ssl.create_default_context()
"""The system's: reading it takes longer than most tests."""
READ = OfferedTool(name="read", description="Read a file")


def settings(upstream: FakeUpstream, **changes: Any) -> egress.Settings:
    fields: dict[str, Any] = {
        "ledger_directory": "/nowhere",
        "allow_hosts": (upstream.host_port,),
        "first_byte_seconds": 20.0,
        "idle_seconds": 20.0,
    }
    return egress.Settings(**fields | changes)


def target(upstream: FakeUpstream, kind: str, model: str = "fake", key: str = KEY) -> Target:
    """A model of the fake upstream, as that kind of provider."""
    url = upstream.base_url if kind == "openai" else upstream.anthropic_url
    return Target(
        "the-model",
        egress.Model(provider="fake", upstream_model=model),
        egress.Provider(type=kind, base_url=url),
        key,
    )


def request(text: str = "hello there", **changes: Any) -> ModelRequest:
    message = ChatMessage(role="user", content=(TextBlock(text=text),))
    fields: dict[str, Any] = {"model": "the-model", "messages": (message,), "max_tokens": 1000}
    return ModelRequest(**fields | changes)


class Given(NamedTuple):
    """All of an answer; what was streamed is put together."""

    pieces: list[ModelPiece]
    finish: Finish
    text: str
    reasoning: str
    tool_calls: tuple[AskedTool, ...]


async def ask(provider: Upstream, target: Target, request: ModelRequest) -> Given:
    pieces: list[ModelPiece] = []
    finish: Finish | None = None
    calls: dict[int, list[str]] = {}
    async for each in provider.ask(target, request):
        assert finish is None
        if isinstance(each, Finish):
            finish = each
            continue
        assert len(msgspec.json.encode(each)) < 64 * 1024
        pieces.append(each)
        for tool in each.tools:
            if tool.index not in calls:
                assert tool.id
                assert tool.name
            call = calls.setdefault(tool.index, [tool.id, tool.name, ""])
            call[2] += tool.arguments
    assert finish is not None
    assert sorted(calls) == list(range(len(calls)))
    asked = [AskedTool(id=i, name=n, arguments=a) for _, (i, n, a) in sorted(calls.items())]
    return Given(
        pieces,
        finish,
        finish.text + "".join(piece.text for piece in pieces),
        finish.reasoning + "".join(piece.reasoning for piece in pieces),
        finish.tool_calls + tuple(asked),
    )


def open_provider(kind: str, settings: egress.Settings, **options: Any) -> tuple[Client, Upstream]:
    client = Client(settings, **{"trust": TRUST} | options)
    return client, UPSTREAMS[kind](client)

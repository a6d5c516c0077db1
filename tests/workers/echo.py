"""`builtin/echo` without an egress: the model itself, in a worker of a test."""

from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from protocol.egress import Model, Provider
from supervisor.egress.providers.echo import Echo
from supervisor.egress.upstream import Finish, Target
from worker.agents.model import ModelEvent, ModelRequest, TextDelta
from worker.egress.models import Calls, finished, translated

TARGET: Final = Target(
    "builtin/echo",
    Model(provider="builtin", upstream_model="builtin/echo"),
    Provider(type="builtin", base_url=""),
    "",
)


class EchoProvider:
    """Implements `worker.agents.model.ModelProvider`."""

    name: Final = "builtin"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ModelProvider`."""
        asked = msgspec.structs.replace(translated(request), stream=True)
        calls = Calls()
        async for piece in Echo().ask(TARGET, asked):
            if isinstance(piece, Finish):
                for call in calls.whole():
                    yield call
                assert piece.spent is not None
                yield finished(piece.stop_reason, piece.spent)
                return
            if piece.text:
                yield TextDelta(piece.text)
            calls.add(piece)

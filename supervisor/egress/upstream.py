"""What egress asks a provider through: a module in `supervisor/egress/providers/` for each API."""

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from protocol import egress
from protocol.models import (
    AskedTool,
    EmbedRequest,
    ModelPiece,
    ModelRequest,
    Spent,
    StopReason,
)


class Target(NamedTuple):
    """Whom a call goes to. `key` is the operator's, or the tenant's own; empty for none."""

    model_id: str
    model: egress.Model
    provider: egress.Provider
    key: str
    own_key: bool = False
    """Whether it is the tenant's own."""


class Finish(NamedTuple):
    """The last thing that comes of a call. `spent` is None where the provider has not said.

    What a provider says twice (at the beginning and at the end) is summed up by its module. The
    answer's text and calls are here when the request does not stream.
    """

    stop_reason: StopReason
    spent: Spent | None
    request_id: str
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[AskedTool, ...] = ()


class Embedded(NamedTuple):
    """The vectors of a call, and what it has spent, if the provider says so."""

    vectors: tuple[tuple[float, ...], ...]
    spent: Spent | None
    request_id: str


class BrokenOffError(Exception):
    """An answer that had begun did not come to its end; `cause` is what the tenant is told."""

    def __init__(self, cause: str, spent: Spent | None, request_id: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.spent = spent
        self.request_id = request_id


class Upstream(Protocol):
    """One provider's API."""

    def ask(
        self, target: Target, request: ModelRequest
    ) -> AsyncGenerator[ModelPiece | Finish, None]:
        """Give pieces as they come, if the request streams; the last is the `Finish`.

        Closing the generator ends the connection at once. Nothing was spent where it raises.

        Raises:
            GatewayError: the provider refused, cannot be reached, or gave nonsense before its
                answer had begun; typed, and without the provider's own words where those could
                hold a secret. Retries are over by then.
            BrokenOffError: it broke off later.
        """

    async def embed(self, target: Target, request: EmbedRequest) -> Embedded:
        """Give vectors. Raises as `ask`."""

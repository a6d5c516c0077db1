"""The way of a call, as every API has it: asked, then the whole answer or events that add to it."""

from collections.abc import AsyncGenerator
from typing import Final

import aiohttp
import msgspec

from protocol.errors import GatewayError
from protocol.models import ModelPiece, ModelRequest, Spent
from supervisor.egress import refused
from supervisor.egress.client import Client
from supervisor.egress.providers.reported import Gathered
from supervisor.egress.sse import Decoder, Event, SSEError
from supervisor.egress.upstream import BrokenOffError, Finish, Target

NONSENSE = "the provider's answer is none of the API that it is configured for"
INVALID = (msgspec.MsgspecError, ValueError, RecursionError)
"""What is raised about an answer that is nonsense."""


class Answer:
    """What has come of one call. Who derives from it knows the API's events.

    Attributes:
        over: It has come to its end.
        gathered: What was added and not given on yet.
    """

    def __init__(self, target: Target, request_id: str) -> None:
        self.over = False
        self.gathered = Gathered()
        self.request_id = request_id
        self.spent: Spent | None = None
        self._target = target
        self._events = Decoder()
        self._failure: GatewayError | BrokenOffError | None = None

    def take(self, data: bytes) -> list[ModelPiece]:
        """Take bytes, empty at the end; give what they add. Call `check` when that is used."""
        try:
            if not data:
                self._end()
            for event in self._events.feed(data):
                self.add(event)
                if self.over:
                    break
        except (GatewayError, BrokenOffError) as error:
            self._failure = error
        except (SSEError, *INVALID):
            self._failure = self.broken(NONSENSE)
        return self.gathered.pieces()

    def check(self) -> None:
        """Raise what went wrong, if something did.

        Raises:
            BrokenOffError: nonsense, an error, or not all.
            GatewayError: an error, before anything was said.
        """
        if self._failure is not None:
            raise self._failure

    def fail(self) -> None:
        """Raise what an error in the stream means."""
        if self.gathered.answered:
            raise self.broken("the provider failed in the middle of its answer")
        raise refused.by_error_object(self._target)

    def broken(self, cause: str) -> BrokenOffError:
        """Give the error of an answer that had begun."""
        return BrokenOffError(cause, None, self.request_id)

    def _end(self) -> None:
        if not self.complete:
            raise self.broken("the provider's answer broke off")
        self.over = True

    # Of each API.

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        raise NotImplementedError

    def add(self, event: Event) -> None:
        """Take an event; set `over` at the last. Raises any of `INVALID` for nonsense."""
        raise NotImplementedError

    def finish(self) -> Finish:
        """Give the end, when it is over."""
        raise NotImplementedError


class Chats:
    """Asks for answers. Who derives from it knows the API's requests and answers.

    Args:
        client: Who connects.
    """

    def __init__(self, client: Client) -> None:
        self._client: Final = client

    async def ask(
        self, target: Target, request: ModelRequest
    ) -> AsyncGenerator[ModelPiece | Finish, None]:
        """See `Upstream`."""
        response = await self._sent(target, request)
        try:
            request_id = self._request_id(response)
            if not request.stream:
                yield await self._whole(target, response, request_id)
                return
            if not response.content_type.endswith("event-stream"):
                raise refused.by_nonsense(target)
            body = self._client.body(response, request_id)
            answer = self._answer(target, request_id)
            while not answer.over:
                for piece in answer.take(await body.read()):
                    yield piece
                answer.check()
            await body.finish()
            yield answer.finish()
        finally:
            response.close()

    # Of each API.

    async def _sent(self, target: Target, request: ModelRequest) -> aiohttp.ClientResponse:
        raise NotImplementedError

    def _request_id(self, response: aiohttp.ClientResponse) -> str:
        raise NotImplementedError

    def _answer(self, target: Target, request_id: str) -> Answer:
        raise NotImplementedError

    async def _whole(
        self, target: Target, response: aiohttp.ClientResponse, request_id: str
    ) -> Finish:
        raise NotImplementedError

"""A call of a model: reserved, asked, streamed back, settled.

Whatever happens, a reservation ends here: what was answered is settled, by estimate where the
provider said nothing of it (a call that was cancelled, or broke off); what was refused is released.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from protocol import egress, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.models import (
    AskedTool,
    EmbedAnswer,
    EmbedRequest,
    ImageBlock,
    ModelAnswer,
    ModelPiece,
    ModelRequest,
    ModelShown,
    ToolPiece,
)
from supervisor.egress import settings as found
from supervisor.egress.caller import Caller
from supervisor.egress.keys import OwnKeys
from supervisor.egress.till import Charge, Estimate, Purpose, Reservation, Till
from supervisor.egress.upstream import BrokenOffError, Finish, Target, Upstream

OUTPUT_TOKENS_DEFAULT: Final = 4096
"""What an answer may have where neither the request nor the operator says it."""
OUTPUT_TOKENS_MIN: Final = 256
"""To how much of it a quota that is nearly used may cut that."""
IMAGE_TOKENS: Final = 4096
MESSAGE_TOKENS: Final = 16
TOOLS_TOKENS: Final = 1024
# JSON writes a character as six bytes at most.
PIECE_CHARS: Final = limits.CHUNK_BYTES_MAX // 8

_encode: Final = msgspec.json.Encoder().encode


class Providers(NamedTuple):
    """What there is to ask."""

    settings: egress.Settings
    upstreams: dict[str, Upstream]
    own_keys: OwnKeys

    def target(self, model_id: str, tenant: str) -> Target:
        """Give whom a model's calls go to, for a tenant.

        Raises:
            GatewayError: NOT_FOUND, no such model; UNAVAILABLE, the tenant's own key does not open.
        """
        model = found.model_of(self.settings, model_id)
        provider = found.provider_of(self.settings, model)
        own = self.own_keys.key(tenant, model.provider) if self.settings.own_keys else None
        key = self.settings.keys.get(model.provider, "") if own is None else own
        return Target(model_id, model, provider, key, own_key=own is not None)

    def check_own_key(self, provider: str) -> None:
        """Refuse a tenant's own key for a provider that takes none.

        Raises:
            GatewayError: FORBIDDEN, the operator allows none; INVALID_REQUEST, no such provider.
        """
        if not self.settings.own_keys:
            message = "keys of one's own are not allowed here (egress.own_keys)"
            raise GatewayError(ErrorCode.FORBIDDEN, message)
        if provider not in self.settings.providers:
            known = ", ".join(sorted(self.settings.providers))[:512] or "none"
            message = f"provider: there is no such provider; there are: {known}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="provider")

    def upstream(self, target: Target) -> Upstream:
        """Give who speaks its API."""
        return self.upstreams[target.provider.type]

    def shown(self, tenant: str) -> tuple[ModelShown, ...]:
        """Give the models that a tenant may use."""
        own = self.own_keys.providers(tenant) if self.settings.own_keys else frozenset()
        return tuple(
            ModelShown(
                id=name,
                provider=model.provider,
                context_window=model.context_window,
                input=model.input,
                embeds=model.embeds,
                own_key=model.provider in own,
            )
            for name, model in sorted(found.models_of(self.settings).items())
        )


def estimate(request: ModelRequest, model: egress.Model) -> Estimate:
    """Say what a call can cost at most.

    A token of text is at least one byte of UTF-8 in all tokenizers that work on bytes, so bytes
    bound tokens; what a provider adds to each message, to tools and for a picture is bounded by the
    constants of this module.
    """
    tokens = TOOLS_TOKENS if request.tools else MESSAGE_TOKENS
    if request.response_format is not None:
        tokens += len(_encode(request.response_format))
    for message in request.messages:
        tokens += MESSAGE_TOKENS + _size(message.name or "") + _size(message.tool_call_id or "")
        for block in message.content:
            tokens += IMAGE_TOKENS if isinstance(block, ImageBlock) else _size(block.text)
        for call in message.tool_calls:
            tokens += MESSAGE_TOKENS + _size(call.id) + _size(call.name) + _size(call.arguments)
    for tool in request.tools:
        tokens += len(tool.name) + _size(tool.description) + len(tool.parameters)
    most = model.max_output_tokens
    if request.max_tokens is None:
        # As much as the quota leaves, since nobody has said how much it is to be.
        return Estimate(tokens, most or OUTPUT_TOKENS_DEFAULT, OUTPUT_TOKENS_MIN)
    return Estimate(tokens, request.max_tokens if most is None else min(request.max_tokens, most))


class _Call:
    """One call of one model, from its reservation to its end."""

    def __init__(self, till: Till, upstream: Upstream, target: Target, caller: Caller) -> None:
        self._till: Final = till
        self._upstream: Final = upstream
        self._target: Final = target
        self._caller: Final = caller
        self.begun = False
        """Whether something of the answer has been sent on."""
        self._answered = 0

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        target = self._target
        guess = estimate(request, target.model)
        purpose = Purpose(
            target.model_id,
            target.model.provider,
            request.run_id,
            request.session_key,
            own_key=target.own_key,
        )
        reservation = await self._till.reserve(self._caller.tenant.name, purpose, guess)
        bounded = msgspec.structs.replace(request, max_tokens=reservation.estimate.output_tokens)
        try:
            finish = await self._asked(self._upstream.ask(target, bounded))
        except GatewayError:
            await self._till.release(reservation)
            raise
        except BrokenOffError as error:
            await self._settle(reservation, error)
            raise GatewayError(ErrorCode.UNAVAILABLE, error.cause, retryAfterMs=1000) from error
        except BaseException:
            # Cancelled, or a fault of ours: it has been asked, and what it said costs.
            await asyncio.shield(self._settle(reservation, None))
            raise
        charge = await self._settle(reservation, finish)
        return ModelAnswer(
            model=target.model_id,
            stop_reason=finish.stop_reason,
            spent=charge.spent,
            cost_micro_usd=charge.cost_micro_usd,
            estimated=charge.estimated,
            request_id=finish.request_id,
            text=finish.text,
            reasoning=finish.reasoning,
            tool_calls=finish.tool_calls,
        )

    async def _asked(self, answer: AsyncGenerator[ModelPiece | Finish, None]) -> Finish:
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    self._count(piece.text, piece.reasoning, piece.tool_calls)
                    return piece
                self._count(piece.text, piece.reasoning, piece.tools)
                for chunk in chunks(piece):
                    self.begun = True
                    await self._caller.send(chunk)
        raise BrokenOffError("the model's answer broke off", None, "")

    def _count(
        self, text: str, reasoning: str, calls: tuple[AskedTool, ...] | tuple[ToolPiece, ...]
    ) -> None:
        said = (
            text,
            reasoning,
            *(call.name for call in calls),
            *(call.arguments for call in calls),
        )
        self._answered += sum(map(_size, said))

    async def _settle(
        self, reservation: Reservation, end: Finish | BrokenOffError | None
    ) -> Charge:
        calls = len(end.tool_calls) if isinstance(end, Finish) else 0
        return await self._till.settle(
            reservation,
            None if end is None else end.spent,
            answered=self._answered,
            tool_calls=calls,
            request_id="" if end is None else end.request_id,
        )


async def ask(
    providers: Providers, till: Till, caller: Caller, request: ModelRequest
) -> ModelAnswer:
    """Have a model answer; where it fails before it has said anything, its fallbacks.

    Raises:
        GatewayError: no such model, no room in the quota, or what the last one said that takes such
            a request.
    """
    target = providers.target(request.model, caller.tenant.name)
    if request.stream and not caller.streams:
        request = msgspec.structs.replace(request, stream=False)
    failure: GatewayError | None = None
    for name in (request.model, *target.model.fallbacks):
        target = providers.target(name, caller.tenant.name)
        call = _Call(till, providers.upstream(target), target, caller)
        try:
            _check(request, target)
            return await call.ask(request)
        except GatewayError as error:
            if failure is not None and error.code is ErrorCode.INVALID_REQUEST:
                continue  # it does not take what the first one does, which nobody asked it
            if call.begun or not error.code.retryable or error.code is ErrorCode.QUOTA_EXCEEDED:
                raise
            failure = error
    assert failure is not None  # the first one has returned, raised, or failed
    raise failure


def _check(request: ModelRequest, target: Target) -> None:
    if target.model.embeds:
        message = f"model: {target.model_id} makes embeddings and answers no chats"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="model")
    if "image" not in target.model.input:
        for place, each in enumerate(request.messages):
            if any(isinstance(block, ImageBlock) for block in each.content):
                message = f"messages[{place}]: {target.model_id} takes no images"
                raise GatewayError(
                    ErrorCode.INVALID_REQUEST, message, field=f"messages[{place}].content"
                )


async def embed(
    providers: Providers, till: Till, caller: Caller, request: EmbedRequest
) -> EmbedAnswer:
    """Have a model make vectors.

    Raises:
        GatewayError: as `ask`.
    """
    target = providers.target(request.model, caller.tenant.name)
    if not target.model.embeds:
        message = f"model: {request.model} makes no embeddings"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="model")
    size = sum(MESSAGE_TOKENS + len(text.encode()) for text in request.texts)
    purpose = Purpose(
        target.model_id,
        target.model.provider,
        request.run_id,
        own_key=target.own_key,
        kind="embedding",
    )
    reservation = await till.reserve(caller.tenant.name, purpose, Estimate(size, 0))
    try:
        made = await providers.upstream(target).embed(target, request)
    except GatewayError:
        await till.release(reservation)
        raise
    except BrokenOffError as error:
        await till.settle(reservation, error.spent, request_id=error.request_id)
        raise GatewayError(ErrorCode.UNAVAILABLE, error.cause, retryAfterMs=1000) from error
    except BaseException:
        await asyncio.shield(till.settle(reservation, None))
        raise
    charge = await till.settle(reservation, made.spent, request_id=made.request_id)
    return EmbedAnswer(
        model=target.model_id,
        vectors=made.vectors,
        spent=charge.spent,
        cost_micro_usd=charge.cost_micro_usd,
        estimated=charge.estimated,
    )


def _size(text: str) -> int:
    # ASCII is what most is, and its length is known.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def chunks(piece: ModelPiece) -> Iterator[bytes]:
    """Give a piece as chunks, each within its bound."""
    if len(piece.text) + len(piece.reasoning) <= PIECE_CHARS and not piece.tools:
        yield _encode(piece)
        return
    for start in range(0, len(piece.reasoning), PIECE_CHARS):
        yield _encode(ModelPiece(reasoning=piece.reasoning[start : start + PIECE_CHARS]))
    for start in range(0, len(piece.text), PIECE_CHARS):
        yield _encode(ModelPiece(piece.text[start : start + PIECE_CHARS]))
    for tool in piece.tools:
        for start in range(0, max(1, len(tool.arguments)), PIECE_CHARS):
            part = msgspec.structs.replace(
                tool, arguments=tool.arguments[start : start + PIECE_CHARS]
            )
            if start:
                part = msgspec.structs.replace(part, id="", name="")
            yield _encode(ModelPiece(tools=(part,)))

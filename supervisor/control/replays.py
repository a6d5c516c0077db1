"""Answers that a repeated request gets again, by the key that its client gave it.

They are kept in memory alone, since one may hold a token: after a restart of the gateway a repeated
creation is a conflict, and never shows a token again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import ControlResponse

_LASTING_STATUS_MAX: Final = 428
"""Refusals above it (429, 5xx) say that the same request can succeed later: they are not kept."""


class _Replay(NamedTuple):
    fingerprint: bytes
    answer: "asyncio.Future[ControlResponse]"
    expires_at: float


class Replays:
    """The table, bounded in time and number.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._replays: Final[dict[str, _Replay]] = {}

    async def answer(
        self, key: str, fingerprint: bytes, act: Callable[[], Awaitable[ControlResponse]]
    ) -> ControlResponse:
        """Give the answer that this key has had, or act and give that.

        A repeat that comes while the first is at work waits for its answer.

        Args:
            key: The client's name for the request.
            fingerprint: Equal for the same request alone.
            act: Does what is asked for, and always gives an answer.

        Raises:
            GatewayError: IDEMPOTENCY_KEY_REUSED: the key is another request's; UNAVAILABLE: too
                many keys are kept whose requests are still at work.
        """
        self._expire()
        known = self._replays.get(key)
        if known is not None:
            if known.fingerprint != fingerprint:
                msg = "Idempotency-Key: it was used for another request; take a new one"
                raise GatewayError(ErrorCode.IDEMPOTENCY_KEY_REUSED, msg, field="Idempotency-Key")
            return await asyncio.shield(known.answer)
        self._make_room()
        future: asyncio.Future[ControlResponse] = asyncio.get_running_loop().create_future()
        expires_at = self._clock() + limits.CONTROL_REPLAY_SECONDS
        self._replays[key] = _Replay(fingerprint, future, expires_at)
        try:
            response = await act()
        except BaseException as error:
            del self._replays[key]
            future.set_exception(error)
            future.exception()  # nobody has to ask for it
            raise
        future.set_result(response)
        if response.status > _LASTING_STATUS_MAX:
            del self._replays[key]
        return response

    def _expire(self) -> None:
        # Oldest first, since all live equally long.
        now = self._clock()
        for key, replay in list(self._replays.items()):
            if replay.expires_at > now:
                return
            if replay.answer.done():
                del self._replays[key]

    def _make_room(self) -> None:
        if len(self._replays) < limits.CONTROL_REPLAYS_MAX:
            return
        oldest = next((key for key, kept in self._replays.items() if kept.answer.done()), None)
        if oldest is None:
            msg = "too many requests with an Idempotency-Key are at work"
            raise GatewayError(ErrorCode.UNAVAILABLE, msg, retryAfterMs=1000)
        del self._replays[oldest]

"""One turn's events: its beginning, its text as it comes, its end."""

import asyncio
from typing import Final, Literal

import msgspec

from protocol.errors import GatewayError
from protocol.methods.chat import Message
from protocol.methods.events import (
    AgentEvent,
    ChatEvent,
    Lifecycle,
    SessionChange,
    SessionChanged,
    ToolEvent,
    ToolProgress,
)
from protocol.methods.sessions import RunStatus
from worker.clock import Clock
from worker.events.bus import Events
from worker.sessions.feed import DELTA_CHARS_MAX, TurnResult

# What comes within this is one event: many turns at once would else be a flood.
GATHER_SECONDS: Final = 0.05
# Beyond this a reply is left out of the event of its end; its history has it.
REPLY_BYTES_MAX: Final = 128 * 1024

_STATES: Final[dict[RunStatus, Literal["final", "error", "aborted"]]] = {
    "ok": "final",
    "error": "error",
    "interrupted": "aborted",
}
_encode: Final = msgspec.json.Encoder().encode


class TurnEvents:
    """Tells of one turn.

    Args:
        events: Where to.
        clock: For timestamps.
        run_id: The turn's.
        session_key: Its session's.
    """

    __slots__ = ("_clock", "_events", "_pieces", "_run_id", "_seq", "_session_key", "_timer")

    def __init__(self, events: Events, clock: Clock, run_id: str, session_key: str) -> None:
        self._events: Final = events
        self._clock: Final = clock
        self._run_id: Final = run_id
        self._session_key: Final = session_key
        self._seq = 0
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def started(self) -> None:
        """The turn begins."""
        self._tell_lifecycle(Lifecycle(phase="start"))

    def text(self, piece: str) -> None:
        """Text is added to the reply."""
        if self._events.wanted:
            self._pieces.append(piece)
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(GATHER_SECONDS, self._tell_text)

    def tool(self, progress: ToolProgress) -> None:
        """A tool begins to run, or has ended."""
        self._tell_text()
        if self._events.wanted:
            self._events.publish(
                "agent",
                ToolEvent(
                    run_id=self._run_id,
                    session_key=self._session_key,
                    stream="tool",
                    ts=self._clock.now_ms(),
                    data=progress,
                ),
            )

    def ended(self, result: TurnResult | GatewayError) -> None:
        """The turn has ended."""
        self._tell_text()
        if not self._events.wanted:
            return
        if isinstance(result, GatewayError):
            result = TurnResult("error", error=result.message, error_code=result.code.name)
        self._events.publish(
            "chat",
            ChatEvent(
                run_id=self._run_id,
                session_key=self._session_key,
                seq=self._next(),
                state=_STATES.get(result.state, "aborted"),
                message=_if_small(result.reply),
                usage=result.usage,
                error_message=result.error,
                error_code=result.error_code,
            ),
        )
        phase: Literal["end", "error"] = "end" if result.state == "ok" else "error"
        self._tell_lifecycle(Lifecycle(phase=phase, error=result.error))
        session_changed(self._events, self._clock, self._session_key, "turn")

    # Inside.

    def _tell_text(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        text = "".join(self._pieces)
        self._pieces.clear()
        for start in range(0, len(text), DELTA_CHARS_MAX):
            self._events.publish(
                "chat",
                ChatEvent(
                    run_id=self._run_id,
                    session_key=self._session_key,
                    seq=self._next(),
                    state="delta",
                    delta_text=text[start : start + DELTA_CHARS_MAX],
                ),
            )

    def _tell_lifecycle(self, data: Lifecycle) -> None:
        if self._events.wanted:
            self._events.publish(
                "agent",
                AgentEvent(
                    run_id=self._run_id,
                    session_key=self._session_key,
                    stream="lifecycle",
                    ts=self._clock.now_ms(),
                    data=data,
                ),
            )

    def _next(self) -> int:
        self._seq += 1
        return self._seq


def session_changed(events: Events, clock: Clock, key: str, reason: SessionChange) -> None:
    """Say that a session is to be read again."""
    if events.wanted:
        events.publish(
            "session.changed", SessionChanged(session_key=key, reason=reason, ts=clock.now_ms())
        )


def _if_small(reply: Message | None) -> Message | None:
    return None if reply is None or len(_encode(reply)) > REPLY_BYTES_MAX else reply

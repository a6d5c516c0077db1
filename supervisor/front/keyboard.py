"""What a client types into a terminal, on its way there: in order, every byte once.

One write is under way at a time. Its bytes are numbered, so that one whose answer was lost with a
worker is repeated without harm.
"""

import secrets
from typing import Final, Protocol

import msgspec

from protocol import limits
from protocol.errors import GatewayError, RemoteProtocolError
from protocol.methods import terminal
from supervisor.front.auth import Grant
from supervisor.front.errand import Errand

_WRITER_BYTES: Final = 8
_decode: Final = msgspec.json.Decoder(terminal.WriteResult).decode


class Typist(Protocol):
    """Whose it is."""

    @property
    def grant(self) -> Grant:
        """In whose name."""

    def on_typed(self) -> None:
        """Something has been taken."""

    def on_not_typed(self, error: GatewayError) -> None:
        """It will not be taken, and nothing after it either."""


class Keyboard:
    """See the module. Nothing is typed before `begin`.

    Args:
        typist: See there.

    Attributes:
        waiting: How many bytes have not been taken.
    """

    __slots__ = (
        "_at",
        "_data",
        "_is_last",
        "_is_over",
        "_terminal_id",
        "_typist",
        "_writer",
        "_writing",
    )

    def __init__(self, typist: Typist) -> None:
        self._typist: Final = typist
        self._writer: Final = secrets.token_hex(_WRITER_BYTES)
        self._terminal_id = ""
        self._data: Final = bytearray()
        self._at = 0
        self._writing: Errand | None = None
        self._is_over = self._is_last = False

    @property
    def waiting(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data)

    def begin(self, terminal_id: str) -> None:
        """Write to this terminal from now on."""
        self._terminal_id = terminal_id
        self.go_on()

    def add(self, data: bytes) -> None:
        """Take what has been typed.

        Raises:
            GatewayError: RATE_LIMITED, UNAVAILABLE: as `Tenant.reserve`.
        """
        if data and not (self._is_over or self._is_last):
            self._typist.grant.tenant.reserve(len(data))
            self._data.extend(data)
            self.go_on()

    def go_on(self) -> None:
        """Write what waits, unless a write is under way."""
        if not self._data or self._writing is not None or not self._terminal_id:
            return
        params = terminal.WriteParams(
            terminal_id=self._terminal_id,
            data_base64=bytes(self._data[: limits.TERMINAL_WRITE_BYTES_MAX]),
            writer=self._writer,
            at=self._at,
        )
        self._writing = Errand(
            self._typist.grant, terminal.WRITE.name, params, self._on_written, self._on_error
        )
        self._writing.start()

    def finish(self) -> None:
        """Take nothing more; what has been taken is still typed, unless that fails now."""
        self._is_last = True
        if self._writing is None:
            self.go_on()
        if self._writing is None:
            self.drop()

    def drop(self) -> None:
        """Forget all that waits."""
        self._is_over = True
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.abandon()
        self._take(len(self._data))

    def _on_written(self, result: bytes) -> None:
        self._writing = None
        try:
            count = _decode(result).written
        except msgspec.DecodeError as error:
            reason = f"the answer to a write: {error}"
            raise RemoteProtocolError(reason) from error
        count = min(count, len(self._data))
        if count > 0:
            self._take(count)
            self._at += count
            self._typist.on_typed()
            self.go_on()
        elif self._is_last:
            self.drop()
        # Else its program does not read: once more at the next tick.

    def _on_error(self, error: GatewayError) -> None:
        self._writing = None
        if self._is_last:
            self.drop()
        elif not error.code.retryable:
            self.drop()
            self._typist.on_not_typed(error)

    def _take(self, count: int) -> None:
        del self._data[:count]
        self._typist.grant.tenant.release(count)

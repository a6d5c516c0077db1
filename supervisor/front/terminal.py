"""`/terminal`: a terminal of the tenant's on one WebSocket.

Binary frames are raw bytes both ways; text frames are JSON objects with a `type`. The client's are
`resize` and `close`; ours are first `attached`, last `exit`, and `lost` where the client was too
slow for the output, `error` for what was refused. The terminal outlives the connection: another one
with `terminalId` and `fromByte` goes on where this one was. When the tenant's worker is replaced
the front does that itself, and the client sees nothing of it.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Final

import msgspec
from websockets.frames import CloseCode, Frame, Opcode

from protocol import limits, params
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from protocol.launching import Columns, Rows
from protocol.methods import terminal
from protocol.methods.registry import Params
from supervisor.front.errand import Errand
from supervisor.front.exchange import Asked, MakeSuccessor
from supervisor.front.keyboard import Keyboard
from supervisor.front.socket_end import Hall, SocketEnd
from supervisor.front.stream import CREDIT_BATCH
from supervisor.front.terminal_query import Wanted, invalid, read_query

# An attachment that ends sooner than this is not made again at once.
SHORT_SECONDS: Final = 1.0
_encode: Final = msgspec.json.Encoder().encode


class _Resize(Params, tag="resize", tag_field="type", frozen=True, kw_only=True):
    """Give the terminal another size."""

    cols: Columns
    rows: Rows


class _Close(Params, tag="close", tag_field="type", frozen=True, kw_only=True):
    """End the terminal."""


_decode_control: Final = msgspec.json.Decoder(_Resize | _Close)
_decode_piece: Final = msgspec.json.Decoder(terminal.Piece)
_decode_spawned: Final = msgspec.json.Decoder(terminal.SpawnResult)
_decode_attached: Final = msgspec.json.Decoder(terminal.AttachResult)


def prepare(hall: Hall, asked: Asked) -> MakeSuccessor:
    """See `entrance.Prepare`."""
    wanted = read_query(asked.query)
    assert asked.grant is not None
    asked.grant.tenant.admit(terminal.ATTACH.name)
    return lambda transport, address: TerminalSocket(hall, transport, address, asked, wanted)


class TerminalSocket(SocketEnd):
    """See the module."""

    __slots__ = (
        "_away_until",
        "_is_told",
        "_keyboard",
        "_next",
        "_others",
        "_owed",
        "_resize",
        "_retry_at",
        "_since",
        "_stream",
        "_terminal_id",
        "_typing_binary",
        "_wanted",
    )

    def __init__(
        self,
        hall: Hall,
        transport: asyncio.Transport,
        address: str,
        asked: Asked,
        wanted: Wanted,
    ) -> None:
        super().__init__(hall, transport, address, asked, limits.TERMINAL_MESSAGE_BYTES_MAX)
        self._wanted: Final = wanted
        self._terminal_id = wanted.terminal_id or ""
        self._next = wanted.from_byte
        self._keyboard: Final = Keyboard(self)
        self._stream: Errand | None = None
        self._others: Final[set[Errand]] = set()
        self._resize: _Resize | None = None
        self._owed = 0
        self._is_told = False
        self._typing_binary = False
        self._since = 0.0
        self._retry_at = self._away_until = inf
        # The connection is ours only when the one before has let it go.
        asyncio.get_running_loop().call_soon(self._safely, self._begin)

    # keyboard.Typist

    def on_typed(self) -> None:
        """See `Typist`."""
        is_low = self._keyboard.waiting <= limits.TERMINAL_TYPED_BYTES_LOW
        if is_low and not self._read.wanted and not self._taking.paused and not self._over:
            self._read.go_on()

    def on_not_typed(self, error: GatewayError) -> None:
        """See `Typist`. That the terminal has ended is told by its output."""
        if error.code is not ErrorCode.CONFLICT:
            self._safely(self._say_error, error)

    # socket_end.SocketEnd

    def drain(self) -> None:
        """See `SocketEnd`. The gateway stops, and its terminals with it."""
        self.close(CloseCode.GOING_AWAY, "the gateway is stopping")

    def revoke(self, error: GatewayError) -> None:
        """See `SocketEnd`. The terminal lives on, for another token of its tenant's."""
        del error
        if not (self._over or self._is_revoked):
            self._revoke_deadline = self._hall.now()
            self._keyboard.drop()
            self._close_revoked()

    def _wants_input(self) -> bool:
        return self._keyboard.waiting < limits.TERMINAL_TYPED_BYTES_HIGH

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY or (frame.opcode is Opcode.CONT and self._typing_binary):
            self._typing_binary = not frame.fin
            self._on_typing(bytes(frame.data))
            return
        message = self._assemble(frame)
        if message is not None:
            self._on_control(message)

    def _on_writable(self) -> None:
        self._grant()

    def _on_tick(self, now: float) -> None:
        if now >= self._retry_at:
            self._retry_at = inf
            self._attach()
        self._keyboard.go_on()
        self._send_size()

    def _part(self) -> None:
        stream, self._stream = self._stream, None
        self._retry_at = inf
        self._keyboard.finish()
        others = list(self._others)
        self._others.clear()
        for errand in others if stream is None else (stream, *others):
            errand.abandon()

    # Inside: the beginning.

    def _begin(self) -> None:
        if self._over or self._is_revoked:
            return
        wanted = self._wanted
        if self._terminal_id:
            if wanted.cols is not None and wanted.rows is not None:
                self._resize = _Resize(cols=wanted.cols, rows=wanted.rows)
            self._attach()
            return
        spawn = terminal.SpawnParams(
            cmd=wanted.cmd,
            cwd=wanted.cwd,
            cols=wanted.cols or terminal.COLUMNS_DEFAULT,
            rows=wanted.rows or terminal.ROWS_DEFAULT,
            name=wanted.name,
            sandbox=wanted.sandbox,
            network=wanted.network,
        )
        self._send(terminal.SPAWN.name, spawn, self._on_spawned, self._refuse)

    def _on_spawned(self, result: bytes) -> None:
        self._terminal_id = _read(_decode_spawned, result).terminal_id
        self._attach()

    def _attach(self) -> None:
        asked = terminal.AttachParams(
            terminal_id=self._terminal_id, from_byte=self._next, encoding="base64"
        )
        self._since = self._hall.now()
        self._owed = 0
        self._stream = Errand(
            self.grant,
            terminal.ATTACH.name,
            asked,
            self._on_detached,
            self._on_unattached,
            self._on_piece,
        )
        self._stream.start()

    # Inside: what the terminal says.

    def _on_piece(self, data: bytes) -> None:
        piece = _read(_decode_piece, data)
        if isinstance(piece, terminal.Attached):
            self._away_until = inf
            self._safely(self._on_attached, piece)
        else:
            self._safely(self._on_output, piece)
        self._owed += 1
        if self._owed >= CREDIT_BATCH:
            self._grant()

    def _on_attached(self, piece: terminal.Attached) -> None:
        if not self._is_told:
            self._is_told = True
            self._hall.note_attached(self.grant, self._terminal_id, self.address)
            self._next = piece.from_byte
            self._say(_encode(piece))
            self._keyboard.begin(self._terminal_id)
        self._send_size()

    def _on_output(self, piece: terminal.Output) -> None:
        data = piece.data_base64 or b""
        if piece.from_byte != self._next:
            self._say(_encode({"type": "lost", "fromByte": piece.from_byte}))
        self._next = piece.from_byte + len(data)
        self._say(data, binary=True)

    def _grant(self) -> None:
        if self._owed and self._stream is not None and not self._taking.paused:
            self._stream.grant(self._owed)
            self._owed = 0

    def _on_detached(self, result: bytes) -> None:
        self._stream = None
        ended = _read(_decode_attached, result).ended
        if ended is None:
            # The worker goes, and another one has come.
            self._safely(self._go_back)
            return
        self._safely(self._say_exit, ended)

    def _say_exit(self, ended: terminal.Ended) -> None:
        told = {
            "type": "exit",
            "exitCode": ended.exit_code,
            "signal": ended.signal,
            "reason": ended.reason,
        }
        self._say(_encode(told))
        self._fail(CloseCode.NORMAL_CLOSURE, "the terminal has ended")

    def _on_unattached(self, error: GatewayError) -> None:
        self._stream = None
        if error.code.retryable and self._is_told:
            self._safely(self._go_back)
        else:
            self._refuse(error)

    def _go_back(self) -> None:
        """Attach to it again, at the worker that there is now or will be soon."""
        now = self._hall.now()
        self._away_until = min(self._away_until, now + limits.TERMINAL_AWAY_SECONDS)
        if now >= self._away_until:
            self._fail(CloseCode.TRY_AGAIN_LATER, "the terminal cannot be reached now")
        elif now - self._since >= SHORT_SECONDS:
            self._attach()
        else:
            self._retry_at = now

    def _refuse(self, error: GatewayError) -> None:
        self._safely(self._say_refusal, error)

    def _say_refusal(self, error: GatewayError) -> None:
        self._say_error(error)
        self._fail(limits.SOCKET_REFUSED_CODE + error.code.http_status, error.message)

    def _say_error(self, error: GatewayError) -> None:
        body = error.body()
        self._say(_encode({"type": "error", "message": body.message, **body.data}))

    # Inside: what the client says.

    def _on_typing(self, data: bytes) -> None:
        try:
            self._keyboard.add(data)
        except GatewayError as error:
            self._fail(CloseCode.TRY_AGAIN_LATER, error.message)
            return
        if not self._wants_input():
            self._read.stop()

    def _on_control(self, message: bytes) -> None:
        try:
            asked = _decode_control.decode(message)
        except msgspec.ValidationError as error:
            path, reason = params.explain(str(error))
            self._say_error(invalid(path or "message", reason))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._say_error(invalid("message", "a text is a JSON object with a type"))
        else:
            if isinstance(asked, _Resize):
                self._resize = asked
                self._send_size()
            elif self._terminal_id:
                which = terminal.TerminalParams(terminal_id=self._terminal_id)
                self._send(terminal.CLOSE.name, which, _ignore, self._say_unless_gone)

    def _send_size(self) -> None:
        """Have the newest size taken, one after the other, once there is a terminal."""
        if self._resize is None or not self._is_told or self._others:
            return
        size, self._resize = self._resize, None
        asked = terminal.ResizeParams(terminal_id=self._terminal_id, cols=size.cols, rows=size.rows)

        def refused(error: GatewayError) -> None:
            if error.code.retryable:
                self._resize = self._resize or size
            else:
                self._say_unless_gone(error)

        def taken(_result: bytes) -> None:
            self._safely(self._send_size)

        self._send(terminal.RESIZE.name, asked, taken, refused)

    def _say_unless_gone(self, error: GatewayError) -> None:
        if error.code is not ErrorCode.CONFLICT:
            self._safely(self._say_error, error)

    # Inside.

    def _send(
        self,
        method: str,
        asked: object,
        on_result: Callable[[bytes], None],
        on_error: Callable[[GatewayError], None],
    ) -> None:
        def answered(result: bytes) -> None:
            self._others.discard(errand)
            on_result(result)

        def refused(error: GatewayError) -> None:
            self._others.discard(errand)
            on_error(error)

        errand = Errand(self.grant, method, asked, answered, refused)
        self._others.add(errand)
        errand.start()

    def _safely(self, act: Callable[..., None], *arguments: object) -> None:
        """Do something on behalf of another connection, whom our failure must not hurt."""
        if self._over:
            return
        try:
            act(*arguments)
        except RemoteProtocolError:
            raise
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)


def _read(decoder: Any, body: bytes) -> Any:
    """Read what the worker said; what is wrong with it ends its link."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"of a terminal: {error}"
        raise RemoteProtocolError(reason) from error


def _ignore(_result: bytes) -> None:
    """What comes of it is seen elsewhere."""

"""The handlers of `terminal.*`: what the launcher is asked, and its output passed on."""

import asyncio
from typing import Final

import msgspec

from protocol import environment, launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import terminal
from worker.dispatch import CallContext, handles
from worker.sandbox.choice import Asked
from worker.sandbox.watchers import Watchers
from worker.sandbox.watching import Piece, Shaping, Watching
from worker.sessions.feed import Stream

SHELL: Final = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
# Then the caller asks again, from where it is: a call does not last for ever.
ATTACHED_SECONDS: Final = limits.CALL_SECONDS_MAX - 60.0
_encode: Final = msgspec.json.Encoder().encode
_decode_terminal: Final = msgspec.json.Decoder(launching.Terminal).decode
_decode_terminals: Final = msgspec.json.Decoder(launching.Terminals).decode
_decode_written: Final = msgspec.json.Decoder(launching.Written).decode


@handles(terminal.SPAWN)
async def spawn(call: CallContext, params: terminal.SpawnParams) -> terminal.SpawnResult:
    """Start a program with a terminal."""
    environment.check_variables(params.env)
    environment.check_directory(params.cwd)
    asked_for = Asked(mode=params.sandbox, network=params.network)
    chosen = await call.services.sandboxes.choose(asked_for)
    spec = launching.Spec(
        argv=_argv(params.cmd),
        env={**environment.TERMINAL, **params.env},
        cwd=params.cwd,
        name=params.name,
        mode=chosen.mode.value,
        image=chosen.image.value,
        network=chosen.network.value,
        caps=chosen.caps,
        wall_seconds=limits.SANDBOX_SECONDS_MAX,
    )
    asked = launching.OpenTerminal(spec=spec, columns=params.cols, rows=params.rows)
    opened = _decode_terminal(await call.services.launcher.call("terminal.open", asked))
    return terminal.SpawnResult(
        terminal_id=opened.sandbox_id,
        id=opened.sandbox_id,
        cols=opened.columns,
        rows=opened.rows,
        mode=opened.mode,
        name=opened.name,
    )


@handles(terminal.WRITE)
async def write(call: CallContext, params: terminal.WriteParams) -> terminal.WriteResult:
    """Type."""
    asked = launching.Write(
        sandbox_id=params.terminal_id, data=_typed(params), writer=params.writer, at=params.at
    )
    written = _decode_written(await call.services.launcher.call("terminal.write", asked))
    return terminal.WriteResult(written=written.count)


@handles(terminal.RESIZE)
async def resize(call: CallContext, params: terminal.ResizeParams) -> terminal.ResizeResult:
    """Give it another size."""
    asked = launching.Resize(sandbox_id=params.terminal_id, columns=params.cols, rows=params.rows)
    await call.services.launcher.call("terminal.resize", asked)
    return terminal.ResizeResult(cols=params.cols, rows=params.rows)


@handles(terminal.CLOSE)
async def close(call: CallContext, params: terminal.TerminalParams) -> terminal.CloseResult:
    """End it."""
    asked = launching.Named(sandbox_id=params.terminal_id)
    await call.services.launcher.call("terminal.close", asked)
    return terminal.CloseResult(closed=True)


@handles(terminal.LIST)
async def list_terminals(call: CallContext, _params: terminal.ListParams) -> terminal.ListResult:
    """List the tenant's."""
    found = _decode_terminals(await call.services.launcher.call("terminal.list", {}))
    return terminal.ListResult(terminals=[_view(each) for each in found.terminals])


@handles(terminal.ATTACH)
async def attach(call: CallContext, params: terminal.AttachParams) -> terminal.AttachResult:
    """Give its output, as a stream or what there is."""
    asked = launching.Attach(sandbox_id=params.terminal_id, from_byte=params.from_byte)
    watchers = call.services.terminals
    with watchers.watcher() as changed:
        watching = Watching(changed)
        try:
            await watching.begin(call.services.launcher, asked)
            if call.stream is None:
                return await _read(watching, changed, params)
            return await _pass_on(watching, changed, params, call.stream, watchers)
        finally:
            watching.close()


async def _pass_on(
    watching: Watching,
    changed: asyncio.Event,
    params: terminal.AttachParams,
    stream: Stream,
    watchers: Watchers,
) -> terminal.AttachResult:
    stream.on_credit = changed.set
    try:
        shaping = await _begun(watching, changed, params)
        timer = asyncio.get_running_loop().call_later(ATTACHED_SECONDS, changed.set)
        try:
            assert watching.view is not None
            await _credit(stream, changed)
            stream.send(_encode(_attached(watching.view, shaping.next)))
            while not watchers.leaving and timer.when() > asyncio.get_running_loop().time():
                changed.clear()
                _send_what_is_taken(watching, shaping, stream)
                if watching.is_over:
                    if (rest := shaping.rest()) is not None:
                        await _credit(stream, changed)
                        stream.send(_encode(rest))
                    break
                await changed.wait()
        finally:
            timer.cancel()
    finally:
        stream.on_credit = None
    return terminal.AttachResult(
        terminal_id=params.terminal_id,
        next_byte=shaping.next,
        ended=_ended(watching.ended) if watching.is_over else None,
    )


def _send_what_is_taken(watching: Watching, shaping: Shaping, stream: Stream) -> None:
    while stream.credit > 0 and (piece := watching.next(shaping.most)) is not None:
        shaped = shaping.shape(piece)
        if shaped is not None:
            stream.send(_encode(shaped))


async def _credit(stream: Stream, changed: asyncio.Event) -> None:
    while stream.credit < 1:
        changed.clear()
        await changed.wait()


async def _begun(
    watching: Watching, changed: asyncio.Event, params: terminal.AttachParams
) -> Shaping:
    """Wait for the first word; what comes is numbered from then on."""
    while watching.view is None:
        changed.clear()
        watching.next(0)  # raises what was refused
        await changed.wait()
    first = max(watching.view.from_byte, params.from_byte or 0)
    return Shaping(params.encoding, first)


async def _read(
    watching: Watching, changed: asyncio.Event, params: terminal.AttachParams
) -> terminal.AttachResult:
    """Give what there is; when that is nothing, wait for something."""
    shaping = await _begun(watching, changed, params)
    assert watching.view is not None
    end, first = watching.view.next_byte, shaping.next
    pieces: list[Piece] = []
    taken = first
    loop = asyncio.get_running_loop()
    deadline = loop.time() + params.wait_ms / 1000
    while True:
        changed.clear()
        while (piece := watching.next(limits.TERMINAL_CHUNK_BYTES_MAX)) is not None:
            pieces.append(piece)
            taken = piece.number + len(piece.data)
        has_all = taken >= end and (pieces or loop.time() >= deadline)
        if watching.is_over or (has_all and watching.view.ended is None):
            break
        try:
            async with asyncio.timeout_at(deadline if taken >= end else None):
                await changed.wait()
        except TimeoutError:
            continue
    first = pieces[0].number if pieces else first
    whole = Shaping(params.encoding, first)
    shaped = whole.shape(Piece(first, b"".join(piece.data for piece in pieces)))
    rest = whole.rest() if watching.is_over else None
    text = [each.data or "" for each in (shaped, rest) if each is not None]
    return terminal.AttachResult(
        terminal_id=params.terminal_id,
        next_byte=whole.next,
        ended=_ended(watching.ended) if watching.is_over else None,
        from_byte=first,
        data="".join(text) if params.encoding == "text" else None,
        data_base64=shaped.data_base64 if shaped is not None else None,
    )


# What is asked for, and what is told.


def _argv(cmd: str | list[str] | None) -> tuple[str, ...]:
    if cmd is None:
        return SHELL
    if not cmd or not cmd[0]:
        raise GatewayError(ErrorCode.INVALID_REQUEST, "cmd: names no program", field="cmd")
    return ("/bin/sh", "-c", cmd) if isinstance(cmd, str) else tuple(cmd)


def _typed(params: terminal.WriteParams) -> bytes:
    if (params.data is None) == (params.data_base64 is None):
        message = "data: give either data (text) or dataBase64"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="data")
    if params.data_base64 is not None:
        return params.data_base64
    try:
        data = (params.data or "").encode()
    except UnicodeEncodeError:
        message = "data: is not valid Unicode"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="data") from None
    if len(data) > limits.TERMINAL_WRITE_BYTES_MAX:
        message = f"data: more than {limits.TERMINAL_WRITE_BYTES_MAX} bytes; send it in pieces"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="data")
    return data


def _attached(view: launching.Terminal, first: int) -> terminal.Attached:
    return terminal.Attached(
        terminal_id=view.sandbox_id,
        from_byte=first,
        cols=view.columns,
        rows=view.rows,
        mode=view.mode,
        name=view.name,
    )


def _ended(ended: launching.Ended | None) -> terminal.Ended | None:
    if ended is None:
        return None
    return terminal.Ended(exit_code=ended.exit_code, signal=ended.signal, reason=ended.reason)


def _view(view: launching.Terminal) -> terminal.TerminalView:
    return terminal.TerminalView(
        terminal_id=view.sandbox_id,
        mode=view.mode,
        name=view.name,
        cols=view.columns,
        rows=view.rows,
        created_at=view.started_at_ms,
        last_activity_at=view.active_at_ms,
        from_byte=view.from_byte,
        next_byte=view.next_byte,
        attached=view.attached,
        ended=_ended(view.ended),
    )

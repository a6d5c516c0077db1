"""Programs that are run to their end in a sandbox: asked of the launcher, fed and read here."""

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from protocol import environment, launching
from protocol.errors import ErrorCode, GatewayError
from worker.sandbox.link import LauncherLink
from worker.sandbox.output import InputPipe, OutputPipe, Taker
from worker.sessions.feed import Stream

# How long what is left in the pipes waits for a slow reader.
LAST_OUTPUT_SECONDS: Final = 10.0

_decode: Final = msgspec.json.Decoder(launching.Ran).decode


class _Streams(NamedTuple):
    """The outer ends of a sandbox's pipes."""

    stdin: InputPipe
    outputs: tuple[OutputPipe, OutputPipe]

    def resume(self) -> None:
        for output in self.outputs:
            output.resume()

    def close(self) -> None:
        for pipe in (self.stdin, *self.outputs):
            pipe.close()


class Finished(NamedTuple):
    """How a program ended; `whole` says that all of its output was read."""

    ran: launching.Ran
    whole: bool


async def run(
    link: LauncherLink,
    spec: launching.Spec,
    stdin: bytes,
    takers: tuple[Taker, Taker],
    stream: Stream | None = None,
) -> Finished:
    """Run a program to its end; at a cancellation it is ended.

    Args:
        link: To the launcher.
        spec: What to run.
        stdin: What it reads.
        takers: Where its stdout and stderr go.
        stream: What the takers send to, if they do: credit there has them read on.

    Raises:
        GatewayError: nothing was run, with the reason; or how it ended cannot be known.
    """
    environment.check_variables(spec.env)
    environment.check_directory(spec.cwd)
    streams: list[_Streams] = []

    def begin(pipes: tuple[int, int, int]) -> None:
        first, second = (OutputPipe(*pair) for pair in zip(pipes[1:], takers, strict=True))
        streams.append(_Streams(InputPipe(pipes[0], stdin), (first, second)))
        if stream is not None:
            stream.on_credit = streams[0].resume

    number = link.expect_pipes(begin)
    try:
        try:
            answer = await link.call("run", msgspec.structs.replace(spec, stdio=number))
        finally:
            link.forget_pipes(number)
        return Finished(_decode(answer), await _last_output(streams))
    finally:
        if stream is not None:
            stream.on_credit = None
        for opened in streams:
            opened.close()


async def _last_output(streams: list[_Streams]) -> bool:
    if not streams:
        raise GatewayError(ErrorCode.INTERNAL, "the launcher sent no pipes")
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_OUTPUT_SECONDS):
            for output in streams[0].outputs:
                await output.ended.wait()
    return all(output.ended.is_set() for output in streams[0].outputs)

"""A fake upstream: `server.py <listening fd> <key or ""> [<certificate> <key file>]`.

It speaks to OpenAI's and to Anthropic's clients, plays what the request asks for
(`tests/upstream/script.py`), and says under `/_seen` what it got. One process, one loop.
"""

import asyncio
import json
import socket
import ssl
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httptools
import msgspec
import uvloop

from tests.upstream import dialects, faults, pages, script
from tests.upstream.dialects import Anthropic, Dialect, OpenAI
from tests.upstream.script import Plan

WAIT_SECONDS: Final = 20.0
_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_REASONS: Final = {200: b"OK", 302: b"Found"}


class Record:
    """What it got. `cancelled`: the client left before its answer was whole."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.forget()

    def forget(self) -> None:
        self.counts: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.faulty: Counter[str] = Counter()
        self.last: dict[str, Any] = {}
        self.waiting: list[tuple[dict[str, int], asyncio.Future[None]]] = []

    def shown(self) -> dict[str, Any]:
        counts = {name: self.counts[name] for name in ("requests", "connections", "cancelled")}
        counts["open"] = sum(not each.controls for each in self.connections)
        counts["answering"] = sum(each.answering for each in self.connections)
        return counts | {"models": dict(self.models), "last": self.last}

    def count(self, name: str) -> None:
        self.counts[name] += 1
        self.changed()

    def changed(self) -> None:
        if self.waiting:
            shown = self.shown()
            for wanted, future in self.waiting:
                if not future.done() and all(shown[key] == wanted[key] for key in wanted):
                    future.set_result(None)

    async def wait(self, wanted: dict[str, int]) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((wanted, future))
        self.changed()
        try:
            await asyncio.wait_for(future, WAIT_SECONDS)
        finally:
            self.waiting = [each for each in self.waiting if each[1] is not future]


class Connection(asyncio.Protocol):
    """Implements `faults.Out`."""

    def __init__(self, record: Record, key: str) -> None:
        self.key = ""
        self.answering = False
        self.controls = False
        self._record = record
        self._expected_key = key
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self.chunked = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._taken = asyncio.Event()
        self._taken.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._record.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._taken.set()
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._record.connections.discard(self)
        if self.answering:
            self.answering = False
            self._record.counts["cancelled"] += 1
        self._record.changed()

    def pause_writing(self) -> None:
        self._taken.clear()

    def resume_writing(self) -> None:
        self._taken.set()

    # httptools

    def on_message_begin(self) -> None:
        self._url, self._fields, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.partition(b"?")
        if path.startswith(b"/_"):
            if not self.controls:
                self.controls = True
                self._record.changed()
            self._task = self._loop.create_task(self._control(path, query.decode()))
            return
        self.answering = True
        self._record.last = {
            "method": self._parser.get_method().decode(),
            "path": path.decode(),
            "headers": self._fields,
            "body": b"".join(self._body).decode("latin-1"),
        }
        self._record.count("requests")
        if path == pages.PATH:
            self._task = self._loop.create_task(pages.answer(self, query.decode()))
        else:
            self._answer(path)

    async def _control(self, path: bytes, query: str) -> None:
        status = 200
        if path == b"/_reset":
            self._record.forget()
        elif path == b"/_wait":
            try:
                await self._record.wait({key: int(value) for key, value in parse_qsl(query)})
            except TimeoutError:
                status = 504
        faults.whole(self, status, json.dumps(self._record.shown()).encode())

    # The way of an answer

    def _answer(self, path: bytes) -> None:
        bearer = self._fields.get("authorization", "").removeprefix("Bearer ")
        self.key = self._fields.get("x-api-key", bearer)
        dialect: Dialect = Anthropic if path == Anthropic.path else OpenAI
        if self._expected_key and self.key != self._expected_key:
            refusal = dialect.error("authentication_error", "wrong key", "invalid_api_key")
            faults.whole(self, 401, refusal)
            return
        if path == b"/v1/models":
            faults.whole(self, 200, dialects.models())
            return
        try:
            asked = script.decode(b"".join(self._body))
        except msgspec.DecodeError as error:
            faults.whole(self, 400, dialect.error("invalid_request_error", str(error)))
            return
        self._record.models[asked.model] += 1
        if path == b"/v1/embeddings":
            if fault := script.options_of(asked.model).get("fault"):
                plan = script.plan(asked)
                self._task = self._loop.create_task(self._play(fault, plan, dialect))
            else:
                faults.whole(self, 200, dialects.embeddings(asked))
            return
        if wrong := _objection(path, asked, self._fields):
            status = 404 if wrong == "no such path" else 400
            faults.whole(self, status, dialect.error("invalid_request_error", wrong))
            return
        self._perform(script.plan(asked), dialect)

    def _perform(self, plan: Plan, dialect: Dialect) -> None:
        fault = plan.options.get("fault")
        asked = f"{plan.model} {sorted(plan.options.items())}"
        self._record.faulty[asked] += 1
        if fault and self._record.faulty[asked] <= plan.number("times", 2**40):
            self._task = self._loop.create_task(self._play(fault, plan, dialect))
        elif plan.stream:
            self._stream(plan, dialect)
        else:
            faults.whole(self, 200, dialect.whole(plan), *_COMMON)

    async def _play(self, fault: str, plan: Plan, dialect: Dialect) -> None:
        try:
            if not await faults.before(fault, self, plan, dialect):
                await faults.middle(fault, self, plan, dialect)
        except Exception:
            self._transport.abort()
            raise

    def _stream(self, plan: Plan, dialect: Dialect) -> None:
        end = {"crlf": b"\r\n", "cr": b"\r"}.get(plan.options.get("line", ""), b"\n")
        events = [end.join(lines) + end + end for lines in dialect.events(plan)]
        if plan.options.get("line") == "comments":
            events = [b": OPENROUTER PROCESSING\n\n" + event for event in events]
        self.head(200, b"Content-Type: text/event-stream; charset=utf-8", *_COMMON[1:])
        pace = plan.number("pace") / 1000
        if not pace:
            chunks = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events])
            self.raw(chunks)
            self.end()
            return
        self._pace(events, 0, self._loop.time(), pace)

    def _pace(self, events: list[bytes], at: int, begun: float, pace: float) -> None:
        self.body(events[at])
        at += 1
        if at == len(events):
            self.end()
            return
        self._timer = self._loop.call_at(begun + at * pace, self._pace, events, at, begun, pace)

    # faults.Out

    def head(self, status: int, *fields: bytes, length: int | None = None) -> None:
        self.chunked = length is None
        size = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        first = b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b"Error"))
        self._transport.write(b"\r\n".join([first, *fields, size, b"\r\n"]))

    def body(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def raw(self, data: bytes) -> None:
        self._transport.write(data)

    def end(self) -> None:
        if self.chunked:
            self._transport.write(b"0\r\n\r\n")
        if self.answering:
            self.answering = False
            self._record.changed()

    def close(self) -> None:
        self.answering = False
        self._transport.close()

    def reset(self) -> None:
        self.answering = False
        peer = cast("socket.socket", self._transport.get_extra_info("socket"))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._transport.abort()

    async def taken(self) -> None:
        await self._taken.wait()


_COMMON: Final = (
    b"Content-Type: application/json",
    b"x-request-id: req_fake",
    b"request-id: req_fake",
)


def _objection(path: bytes, asked: script.Asked, fields: dict[str, str]) -> str | None:
    """Say what the real one would refuse."""
    if path not in (OpenAI.path, Anthropic.path):
        return "no such path"
    if not asked.messages:
        return "messages: at least one is needed"
    if path == Anthropic.path:
        return _objection_of_anthropic(asked, fields)
    if asked.model.startswith(("o1", "o3", "o4", "gpt-5")) and asked.max_tokens is not None:
        return "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    return None


def _objection_of_anthropic(asked: script.Asked, fields: dict[str, str]) -> str | None:
    if "anthropic-version" not in fields:
        return "anthropic-version: header is required"
    if asked.max_tokens is None:
        return "max_tokens: Field required"
    if any(message["role"] not in ("user", "assistant") for message in asked.messages):
        return "messages: roles must be user or assistant"
    return None


async def main(arguments: list[str]) -> None:
    listener = socket.socket(fileno=int(arguments[0]))
    context = None
    if len(arguments) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments[2:4])
    record = Record()

    def made() -> Connection:
        record.counts["connections"] += 1
        return Connection(record, arguments[1])

    server = await asyncio.get_running_loop().create_server(
        made, sock=listener, ssl=context, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))

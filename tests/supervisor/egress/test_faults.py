"""Whatever a provider does wrong ends in a typed error, in time, in bounds, and without secrets."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from protocol import egress
from protocol.errors import ErrorCode, GatewayError
from protocol.models import EmbedRequest
from supervisor.egress import client as client_module
from supervisor.egress.addresses import Guard
from supervisor.egress.client import Client
from supervisor.egress.upstream import BrokenOffError, Target, Upstream
from tests.certificates import paths
from tests.supervisor.egress import asking
from tests.supervisor.egress.asking import KEY, ask, request, target
from tests.upstream.fake import FakeUpstream

SOON = 0.25
"""Seconds: of limits that a test waits for."""
BEFORE = {
    "reset": ErrorCode.UNAVAILABLE,
    "close": ErrorCode.UNAVAILABLE,
    "400": ErrorCode.INVALID_REQUEST,
    "401": ErrorCode.FORBIDDEN,
    "403": ErrorCode.FORBIDDEN,
    "404": ErrorCode.NOT_FOUND,
    "408": ErrorCode.TIMEOUT,
    "413": ErrorCode.PAYLOAD_TOO_LARGE,
    "429": ErrorCode.RATE_LIMITED,
    "500": ErrorCode.UNAVAILABLE,
    "502": ErrorCode.UNAVAILABLE,
    "503": ErrorCode.UNAVAILABLE,
    "504": ErrorCode.TIMEOUT,
    "529": ErrorCode.UNAVAILABLE,
    "quota": ErrorCode.UNAVAILABLE,
    "plain-500": ErrorCode.UNAVAILABLE,
    "key": ErrorCode.FORBIDDEN,
    "key-400": ErrorCode.INVALID_REQUEST,
    "redirect": ErrorCode.UNAVAILABLE,
    "type": ErrorCode.UNAVAILABLE,
    "error": ErrorCode.UNAVAILABLE,
    "head": ErrorCode.UNAVAILABLE,
    "hang": ErrorCode.TIMEOUT,
}
NO_ANSWER = ("empty", "malformed", "shape", "deep", "huge", "gzip")
MIDDLE = ("hang", "reset", "close", "end", "drip")
MIDDLE_OF_STREAMS = ("malformed", "shape", "error", "huge")


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(params=["openai", "anthropic"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asker:
    """Makes providers, and closes them."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.waits: list[float] = []
        self._upstream = upstream
        self._clients: list[Client] = []

    def provider(self, kind: str, **changes: Any) -> Upstream:
        settings = asking.settings(self._upstream, **{"retries": 0} | changes)
        client, provider = asking.open_provider(kind, settings, sleep=self._sleep)
        self._clients.append(client)
        return provider

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture
async def asker(upstream: FakeUpstream) -> AsyncIterator[Asker]:
    upstream.reset()
    asker = Asker(upstream)
    yield asker
    await asker.close()


def holds_no_secret(text: str) -> bool:
    return not any(KEY[at : at + 6] in text for at in range(len(KEY) - 5))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE)
async def test_a_fault_before_the_answer_is_a_typed_error(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str, stream: bool
) -> None:
    limits = {"first_byte_seconds": SOON} if fault == "hang" else {}
    provider = asker.provider(kind, **limits)
    with pytest.raises(GatewayError) as caught:
        await ask(provider, target(upstream, kind, f"fake/fault:{fault}"), request(stream=stream))
    error = caught.value
    assert error.code is BEFORE[fault]
    assert error.details["provider"] == "fake"
    assert holds_no_secret(json.dumps(error.problem()))
    await asyncio.to_thread(upstream.wait, requests=1, answering=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", NO_ANSWER)
async def test_an_answer_that_is_none_is_broken_off_or_refused(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str, stream: bool
) -> None:
    place = target(upstream, kind, f"fake/fault:{fault}")
    with pytest.raises(GatewayError if stream else BrokenOffError):
        await ask(asker.provider(kind), place, request(stream=stream))
    await asyncio.to_thread(upstream.wait, requests=1, answering=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", MIDDLE)
async def test_a_fault_in_the_middle_is_an_answer_broken_off(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str, stream: bool
) -> None:
    limits: dict[str, Any] = {}
    if fault == "hang":
        limits = {"idle_seconds": SOON}
    elif fault == "drip":
        limits = {"total_seconds": SOON}
    place = target(upstream, kind, f"fake/fault:{fault}-middle")
    with pytest.raises(BrokenOffError) as caught:
        await ask(asker.provider(kind, retries=2, **limits), place, request(stream=stream))
    assert caught.value.spent is None
    await asyncio.to_thread(upstream.wait, requests=1, answering=0)


@pytest.mark.parametrize("fault", MIDDLE_OF_STREAMS)
async def test_nonsense_in_a_stream_breaks_it_off_after_what_was_said(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str
) -> None:
    said: list[str] = []
    answer = asker.provider(kind).ask(
        target(upstream, kind, f"fake/fault:{fault}-middle"), request(stream=True)
    )

    async def listen() -> None:
        async for each in answer:
            said.append(each.text)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(BrokenOffError):
        await listen()
    assert "".join(said).startswith("You ")
    await asyncio.to_thread(upstream.wait, requests=1, answering=0)


async def test_what_is_no_http_breaks_it_off(
    upstream: FakeUpstream, asker: Asker, kind: str
) -> None:
    place = target(upstream, kind, "fake/fault:chunk-middle")
    # Nothing of the answer may have been seen yet.
    with pytest.raises((BrokenOffError, GatewayError)):
        await ask(asker.provider(kind, retries=2), place, request(stream=True))
    await asyncio.to_thread(upstream.wait, requests=1, answering=0)


async def test_a_byte_a_second_is_ended_by_the_total_limit(
    upstream: FakeUpstream, asker: Asker, kind: str
) -> None:
    provider = asker.provider(kind, total_seconds=SOON)
    with pytest.raises(BrokenOffError):
        await ask(provider, target(upstream, kind, "fake/fault:drip"), request())
    await asyncio.to_thread(upstream.wait, cancelled=1)


@pytest.mark.parametrize("fault", ["503", "429", "408", "529", "reset", "close"])
async def test_what_is_refused_for_now_is_tried_again(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str
) -> None:
    place = target(upstream, kind, f"fake/fault:{fault}/times:2")
    given = await ask(asker.provider(kind, retries=2), place, request(stream=True))
    assert given.text == "You said: hello there"
    assert upstream.seen()["requests"] == 3
    assert len(asker.waits) == 2
    longest = client_module.BACKOFF_SECONDS
    assert 0 <= asker.waits[0] <= 2 * longest
    assert 0 <= asker.waits[1] <= 4 * longest


@pytest.mark.parametrize("fault", ["400", "401", "404", "quota", "redirect", "type", "head"])
async def test_what_would_be_refused_again_is_asked_once(
    upstream: FakeUpstream, asker: Asker, kind: str, fault: str
) -> None:
    with pytest.raises(GatewayError):
        await ask(
            asker.provider(kind, retries=2),
            target(upstream, kind, f"fake/fault:{fault}"),
            request(),
        )
    assert upstream.seen()["requests"] == 1


async def test_retries_have_an_end(upstream: FakeUpstream, asker: Asker, kind: str) -> None:
    with pytest.raises(GatewayError) as caught:
        await ask(
            asker.provider(kind, retries=2), target(upstream, kind, "fake/fault:503"), request()
        )
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert upstream.seen()["requests"] == 3


async def test_a_provider_is_left_alone_as_long_as_it_says(
    upstream: FakeUpstream, asker: Asker, kind: str
) -> None:
    place = target(upstream, kind, "fake/fault:429/times:1/after:7")
    await ask(asker.provider(kind, retries=1), place, request())
    assert asker.waits == [7.0]
    place = target(upstream, kind, "fake/fault:429/after:60")
    with pytest.raises(GatewayError) as caught:
        await ask(asker.provider(kind, retries=1), place, request())
    assert caught.value.details["retryAfterMs"] == 60_000
    assert asker.waits == [7.0]
    place = target(upstream, kind, "fake/fault:503/after:7")
    with pytest.raises(GatewayError):
        await ask(asker.provider(kind, retries=1, total_seconds=5), place, request())
    assert asker.waits == [7.0]


@pytest.mark.parametrize("fault", ["empty", "malformed", "shape", "deep", "huge", "gzip"])
async def test_vectors_that_are_none_are_broken_off(
    upstream: FakeUpstream, asker: Asker, fault: str
) -> None:
    provider = asker.provider("openai")
    asked = EmbedRequest(model="the-model", texts=("a",))
    with pytest.raises(BrokenOffError):
        await provider.embed(target(upstream, "openai", f"fake/fault:{fault}"), asked)


# --- who is reached


async def refused(provider: Upstream, kind: str, base_url: str) -> GatewayError:
    model = egress.Model(provider="p", upstream_model="m")
    place = Target("m", model, egress.Provider(type=kind, base_url=base_url), KEY)
    with pytest.raises(GatewayError) as caught:
        await ask(provider, place, request())
    return caught.value


async def test_only_what_is_opened_is_reached(
    upstream: FakeUpstream, asker: Asker, kind: str
) -> None:
    closed = asker.provider(kind, allow_hosts=())
    host = upstream.host_port
    for url in (f"http://{host}", f"https://{host}", "http://example.com", "https://[::1]:9"):
        assert (await refused(closed, kind, url)).code is ErrorCode.FORBIDDEN
    opened = asker.provider(kind)
    for url in (
        f"http://2130706433:{upstream.port}",
        f"http://127.1:{upstream.port}",
        f"http://0x7f000001:{upstream.port}",
        f"http://user@{host}",
        f"http://{host}?a=b",
        "ftp://example.com",
        "http://",
        "nonsense",
        "https://exa mple.com",
        "https://example.com:99999",
    ):
        assert (await refused(opened, kind, url)).code in (
            ErrorCode.INVALID_REQUEST,
            ErrorCode.FORBIDDEN,
        )
    assert upstream.seen()["requests"] == 0


async def test_a_name_is_looked_up_at_each_connection_and_judged(upstream: FakeUpstream) -> None:
    said = [["127.0.0.1"], ["169.254.169.254"]]

    async def lookup(_name: str, _port: int) -> list[str]:
        return said.pop(0)

    name = f"models.test:{upstream.port}"
    guard = Guard([name], lookup=lookup)
    client, provider = asking.open_provider("openai", asking.settings(upstream), guard=guard)
    place = target(upstream, "openai")._replace(
        provider=egress.Provider(type="openai", base_url=f"http://{name}/v1")
    )
    upstream.reset()
    await ask(provider, place, request())
    assert upstream.seen()["last"]["headers"]["host"] == name
    with pytest.raises(BrokenOffError):
        await ask(provider, place._replace(
            model=egress.Model(provider="p", upstream_model="fake/fault:close-middle")
        ), request())  # fmt: skip
    with pytest.raises(GatewayError) as caught:
        await ask(provider, place, request())
    assert caught.value.code is ErrorCode.FORBIDDEN
    assert upstream.seen()["requests"] == 2
    await client.close()


async def test_new_settings_are_gone_by_at_once_and_let_calls_go_on(
    upstream: FakeUpstream, kind: str
) -> None:
    client, provider = asking.open_provider(kind, asking.settings(upstream))
    place = target(upstream, kind, "fake/chunks:20/pace:5")
    answer = provider.ask(place, request(stream=True))
    said = [await anext(answer)]
    client.configure(asking.settings(upstream, allow_hosts=()))
    with pytest.raises(GatewayError) as caught:
        await ask(provider, place, request())
    assert caught.value.code is ErrorCode.FORBIDDEN
    said += [piece async for piece in answer]
    assert "".join(piece.text for piece in said) == "word " * 20
    await client.close()


async def test_nobody_there_is_unavailable_and_tried_again(asker: Asker, kind: str) -> None:
    with FakeUpstream() as gone:
        place = target(gone, kind)
        host = gone.host_port
    with pytest.raises(GatewayError) as caught:
        await ask(asker.provider(kind, retries=2, allow_hosts=(host,)), place, request())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert len(asker.waits) == 2


async def test_who_does_not_accept_is_given_up(
    upstream: FakeUpstream, asker: Asker, kind: str
) -> None:
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        host = f"127.0.0.1:{full.getsockname()[1]}"
        provider = asker.provider(kind, allow_hosts=(host,), connect_seconds=SOON, retries=1)
        error = await refused(provider, kind, f"http://{host}")
    assert error.code is ErrorCode.UNAVAILABLE
    assert "accept" in error.message
    assert len(asker.waits) == 1


async def test_proxies_of_the_environment_are_not_used(
    upstream: FakeUpstream, asker: Asker, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await ask(asker.provider(kind), target(upstream, kind), request())).text


async def test_the_certificate_is_checked_for_the_name() -> None:
    trust = ssl.create_default_context(cafile=paths.FIRST)
    with FakeUpstream(certificate=paths.FIRST, private_key=paths.FIRST_KEY) as upstream:

        async def lookup(_name: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        async def tried(name: str, context: ssl.SSLContext) -> str:
            host = f"{name}:{upstream.port}"
            guard = Guard([host], lookup=lookup)
            settings = asking.settings(upstream, retries=0)
            client, provider = asking.open_provider("openai", settings, guard=guard, trust=context)
            place = target(upstream, "openai")._replace(
                provider=egress.Provider(type="openai", base_url=f"https://{host}/v1")
            )
            try:
                return (await ask(provider, place, request())).text
            except GatewayError as error:
                return error.code.name
            finally:
                await client.close()

        assert await tried("localhost", trust) == "You said: hello there"
        assert await tried("models.test", trust) == "UNAVAILABLE"
        assert await tried("localhost", ssl.create_default_context()) == "UNAVAILABLE"

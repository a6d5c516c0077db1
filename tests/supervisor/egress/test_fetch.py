"""The tool `fetch`: only named hosts, judged at every hop, within its bounds."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from protocol import limits
from protocol.egress import FetchAnswer, FetchRequest
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress import fetch as fetch_module
from supervisor.egress.addresses import Guard
from supervisor.egress.client import Client
from supervisor.egress.fetch import PER_TENANT_MAX, REDIRECTS_MAX, Fetcher
from supervisor.egress.outward import Traffic
from tests.supervisor.egress import asking
from tests.upstream.fake import FakeUpstream

TEXT = "text/plain"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[Client]:
    async def lookup(name: str, _port: int) -> list[str]:
        return ["169.254.169.254"] if name.startswith("metadata") else ["127.0.0.1"]

    guard = Guard([upstream.host_port, f"docs.test:{upstream.port}"], lookup=lookup)
    client = Client(asking.settings(upstream), guard=guard, trust=asking.TRUST)
    yield client
    await client.close()


@pytest.fixture
def fetcher(upstream: FakeUpstream, client: Client) -> Fetcher:
    port = upstream.port
    hosts = (upstream.host_port, f"*.test:{port}", "*.example.org", "example.com")
    return Fetcher(client, asking.settings(upstream, fetch_hosts=hosts))


def page(upstream: FakeUpstream, host: str = "", /, **asked: Any) -> str:
    query = urlencode({"type": TEXT} | asked)
    return f"http://{host or '127.0.0.1'}:{upstream.port}/page?{query}"


class Fetched(NamedTuple):
    answer: FetchAnswer
    moved: int


async def get(fetcher: Fetcher, url: str, tenant: str = "acme") -> Fetched:
    traffic = Traffic()
    answer = await fetcher.fetch(tenant, FetchRequest(url=url), traffic)
    return Fetched(answer, traffic.moved)


async def refused(fetcher: Fetcher, url: str) -> ErrorCode:
    with pytest.raises(GatewayError) as caught:
        await get(fetcher, url)
    assert caught.value.details["field" if "field" in caught.value.details else "host"]
    return caught.value.code


async def test_a_page_comes_as_it_is(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    url = page(upstream, body="<p>gr\xfc\xdfe</p>", type="text/html; charset=ISO-8859-1")
    found = await get(fetcher, f"{url}#part")
    assert found.answer.body == "<p>grüße</p>"
    assert found.answer.url == url
    assert found.answer.status == 200
    assert found.answer.content_type == "text/html"
    assert not found.answer.truncated
    assert found.moved == len("<p>grüße</p>")
    headers = upstream.seen()["last"]["headers"]
    assert not {"cookie", "authorization", "referer"} & set(headers)
    await get(fetcher, url)
    assert "cookie" not in upstream.seen()["last"]["headers"]


async def test_what_is_not_found_is_an_answer_too(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    found = await get(fetcher, page(upstream, status=404, body="no such page"))
    assert (found.answer.status, found.answer.body) == (404, "no such page")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://example.com:8443/",
        "https://sub.example.com/",
        "https://example.org/",
        "https://badexample.org/",
        "https://example.org.evil.test/",
        "http://a.example.org/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "http://other.test/",
    ],
)
async def test_only_named_hosts_are_asked(fetcher: Fetcher, url: str) -> None:
    assert await refused(fetcher, url) is ErrorCode.FORBIDDEN


@pytest.mark.parametrize("url", ["https://a.example.org/", "https://EXAMPLE.com./x?y"])
async def test_what_is_named_is_still_judged_by_its_address(fetcher: Fetcher, url: str) -> None:
    assert await refused(fetcher, url) is ErrorCode.FORBIDDEN


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "example.com",
        "https://user@example.com/",
        "https://example.com@evil.test/",
        "https://example.com\\@evil.test/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://example.com/a b",
        "https://example.com:port/",
        "https://ex\u00e4mple.com/",
        "https://2130706433/",
        "https://127.1/",
        "https://0x7f.1/",
        "",
    ],
)
async def test_what_is_no_plain_url_is_refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(GatewayError) as caught:
        await get(fetcher, url)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_a_redirect_is_judged_like_the_first_address(
    upstream: FakeUpstream, fetcher: Fetcher
) -> None:
    there = page(upstream, "docs.test", body="there")
    found = await get(fetcher, page(upstream, status=302, to=there))
    assert found.answer.body == "there"
    assert found.answer.url == there
    relative = await get(fetcher, page(upstream, status=301, to="/page?type=text/plain&body=near"))
    assert relative.answer.body == "near"
    for to in (
        "http://169.254.169.254/latest/meta-data/",
        f"http://metadata.test:{upstream.port}/page",
        f"http://localhost:{upstream.port}/page",
        "https://evil.example/",
        "http://example.com/",
    ):
        code = await refused(fetcher, page(upstream, status=307, to=to))
        assert code is ErrorCode.FORBIDDEN
    for to in ("file:///etc/passwd", "https://user@example.com/", "http://[::1"):
        with pytest.raises(GatewayError):
            await get(fetcher, page(upstream, status=302, to=to))


async def test_redirects_have_an_end(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    upstream.reset()
    to = "/page?status=302&to=/page"
    for _ in range(REDIRECTS_MAX + 1):
        to = f"/page?{urlencode({'status': 302, 'to': to})}"
    code = await refused(fetcher, f"http://{upstream.host_port}{to}")
    assert code is ErrorCode.UNAVAILABLE
    assert upstream.seen()["requests"] == REDIRECTS_MAX + 1


async def test_a_long_page_is_cut_at_its_bound(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    upstream.reset()
    found = await get(fetcher, page(upstream, body="x" * 1000, times=100_000))
    assert found.answer.truncated
    assert len(found.answer.body) == limits.FETCH_BYTES_MAX
    assert limits.FETCH_BYTES_MAX < found.moved < 2 * limits.FETCH_BYTES_MAX
    await asyncio.to_thread(upstream.wait, cancelled=1)


@pytest.mark.parametrize(
    "media_type", ["image/png", "application/octet-stream", "", "text", "application/zip; x=json"]
)
async def test_what_is_no_text_is_refused(
    upstream: FakeUpstream, fetcher: Fetcher, media_type: str
) -> None:
    code = await refused(fetcher, page(upstream, type=media_type))
    assert code is ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/ld+json; a=b", "TEXT/CSV", "application/xml"]
)
async def test_text_json_and_xml_are_given(
    upstream: FakeUpstream, fetcher: Fetcher, media_type: str
) -> None:
    assert (await get(fetcher, page(upstream, type=media_type))).answer.body == "hello"


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "zip", "nonsense", "u" * 99])
async def test_an_unusual_charset_is_read_as_utf_8(
    upstream: FakeUpstream, fetcher: Fetcher, charset: str
) -> None:
    url = page(upstream, type=f"text/plain; charset={charset}", body="a\xff")
    assert (await get(fetcher, url)).answer.body == "a\ufffd"


async def test_a_compressed_page_is_refused(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    assert await refused(fetcher, page(upstream, encoding="gzip")) is ErrorCode.UNAVAILABLE


async def test_faults_are_typed(
    upstream: FakeUpstream, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await refused(fetcher, page(upstream, fault="reset")) is ErrorCode.UNAVAILABLE
    monkeypatch.setattr(fetch_module, "FETCH_SECONDS", 0.25)
    for fault in ("hang", "drip"):
        assert await refused(fetcher, page(upstream, fault=fault)) is ErrorCode.TIMEOUT
    await asyncio.to_thread(upstream.wait, answering=0)


async def test_what_was_read_in_vain_is_counted(
    upstream: FakeUpstream, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "FETCH_SECONDS", 0.25)
    traffic = Traffic()
    with pytest.raises(GatewayError):
        await fetcher.fetch("acme", FetchRequest(url=page(upstream, fault="drip")), traffic)
    assert traffic.moved == 1


async def test_a_tenant_has_only_so_many_at_a_time(
    upstream: FakeUpstream, fetcher: Fetcher
) -> None:
    upstream.reset()
    url = page(upstream, fault="hang")
    running = [asyncio.create_task(get(fetcher, url)) for _ in range(PER_TENANT_MAX)]
    await asyncio.to_thread(upstream.wait, answering=PER_TENANT_MAX)
    with pytest.raises(GatewayError) as caught:
        await get(fetcher, url)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert (await get(fetcher, page(upstream), "globex")).answer.body == "hello"
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.to_thread(upstream.wait, answering=0)
    assert (await get(fetcher, page(upstream))).answer.body == "hello"


async def test_new_settings_are_gone_by_at_once(upstream: FakeUpstream, fetcher: Fetcher) -> None:
    fetcher.configure(asking.settings(upstream, fetch_hosts=()))
    assert await refused(fetcher, page(upstream)) is ErrorCode.FORBIDDEN

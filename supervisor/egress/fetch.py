"""The tool `fetch`: a GET of a page for a worker, from hosts that the operator has named.

An entry of `fetch_hosts` is a name, which is asked by https at port 443, or a name and a port,
which may be asked by http too; `*.` before it stands for every name below. Every redirect is
judged like the first address, and each connection goes through the guard.
"""

import asyncio
import codecs
import re
from collections import Counter
from typing import Final, NamedTuple
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from protocol import egress, limits
from protocol.egress import FetchAnswer, FetchRequest
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress import refused
from supervisor.egress.client import Client
from supervisor.egress.hosts import canonical, fetch_host, literal
from supervisor.egress.outward import Traffic

FETCH_SECONDS: Final = 30.0
REDIRECTS_MAX: Final = 5
PER_TENANT_MAX: Final = 8
"""Of a tenant at a time."""
_HEADERS: Final = {
    "Accept": "text/html,text/plain,application/json,application/xml;q=0.9,text/*;q=0.8",
    "Accept-Encoding": "identity",
    "User-Agent": "openclawmu",
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"https": 443, "http": 80}
# What a program that reads it otherwise could be told apart by is refused: user, backslash, blanks.
_URL: Final = re.compile(
    r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?([/?][!-\[\]-~]*)?\Z"
)
_READABLE: Final = re.compile(r"text/[a-z0-9.+-]+|application/([a-z0-9.+-]+\+)?(json|xml)\Z")
_CHARSETS: Final = frozenset(
    {"ascii", "big5", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk", "koi8-r", "koi8-u"}
    | {"shift_jis", "utf-8", "utf-16", "utf-16-le", "utf-16-be"}
)


class _Place(NamedTuple):
    scheme: str
    host: str
    port: int
    rest: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.rest}"


class Fetcher:
    """Implements the tool for all tenants.

    Args:
        client: Through whom it is asked.
        settings: Those in force.
    """

    def __init__(self, client: Client, settings: egress.Settings) -> None:
        self._client: Final = client
        self._running: Final[Counter[str]] = Counter()
        self._names: frozenset[str] = frozenset()
        self._ports: frozenset[tuple[str, int]] = frozenset()
        self.configure(settings)

    def configure(self, settings: egress.Settings) -> None:
        """Go by these from here on."""
        entries = [fetch_host(each) for each in settings.fetch_hosts]
        self._names = frozenset(name for name, port in entries if port is None)
        self._ports = frozenset((name, port) for name, port in entries if port is not None)

    async def fetch(self, tenant: str, request: FetchRequest, traffic: Traffic) -> FetchAnswer:
        """Get a page.

        Args:
            tenant: For whom.
            request: Which.
            traffic: Is added to, whatever happens.

        Raises:
            GatewayError: INVALID_REQUEST, no such URL; FORBIDDEN, a host that is not named or not
                public; UNSUPPORTED_MEDIA_TYPE, no text; RATE_LIMITED, too many at a time;
                UNAVAILABLE and TIMEOUT, what the other side did.
        """
        if self._running[tenant] >= PER_TENANT_MAX:
            msg = f"fetch: a tenant has at most {PER_TENANT_MAX} at a time"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=1000)
        self._running[tenant] += 1
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await self._follow(request.url, traffic)
        except TimeoutError:
            msg = f"url: took longer than {FETCH_SECONDS:.0f} s"
            raise GatewayError(ErrorCode.TIMEOUT, msg, field="url") from None
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    async def _follow(self, url: str, traffic: Traffic) -> FetchAnswer:
        for _ in range(REDIRECTS_MAX + 1):
            place = await self._judged(url)
            response = await self._get(place)
            try:
                target = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not target:
                    return await _read(place.url, response, traffic)
            finally:
                response.close()
            try:
                url = urljoin(place.url, target)
            except ValueError:
                url = target
        msg = f"url: redirects more than {REDIRECTS_MAX} times"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg, field="url")

    async def _judged(self, url: str) -> _Place:
        place = _parsed(url)
        named = self._is_named(place)
        if not named:
            msg = f"url: {place.host}: is none of egress.fetch_hosts, by this scheme and port"
            raise GatewayError(ErrorCode.FORBIDDEN, msg, field="url")
        if literal(place.host) is not None:
            # aiohttp asks its resolver, the guard, about names only.
            await self._client.guard.resolve(place.host, place.port)
        return place

    def _is_named(self, place: _Place) -> bool:
        labels = place.host.split(".")
        above = ["*." + ".".join(labels[at:]) for at in range(1, len(labels))]
        found = [place.host] if literal(place.host) is not None else [place.host, *above]
        if any((name, place.port) in self._ports for name in found):
            return True
        usual = place.scheme == "https" and place.port == _PORTS["https"]
        return usual and any(name in self._names for name in found)

    async def _get(self, place: _Place) -> aiohttp.ClientResponse:
        try:
            return await self._client.get(URL(place.url, encoded=True), _HEADERS)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise refused.by_exception(f"url: {place.host}", error, field="url").error from None


async def _read(url: str, response: aiohttp.ClientResponse, traffic: Traffic) -> FetchAnswer:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not _READABLE.match(media_type):
        shown = ascii(media_type[:64])[1:-1] or "not said"
        msg = f"url: its content type is {shown}; only text, JSON and XML are given"
        raise GatewayError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, msg, field="url")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        msg = "url: its content is compressed, which was not asked for"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg, field="url")
    body, truncated = bytearray(), False
    try:
        while data := await response.content.readany():
            body += data
            traffic.moved += len(data)
            if len(body) > limits.FETCH_BYTES_MAX:
                truncated = True
                break
    except (aiohttp.ClientError, OSError, ValueError):
        # What a server sends last of a page is not worth losing the rest.
        truncated = True
    charset = _charset(response.charset)
    text = bytes(body[: limits.FETCH_BYTES_MAX]).decode(charset, "replace")
    return FetchAnswer(
        url=url,
        status=response.status,
        content_type=media_type,
        body=text,
        truncated=truncated,
    )


def _charset(given: str | None) -> str:
    try:
        name = codecs.lookup((given or "utf-8")[:40]).name
    except (LookupError, ValueError):
        return "utf-8"
    return name if name in _CHARSETS or re.match(r"iso8859-|cp125", name) else "utf-8"


def _parsed(url: str) -> _Place:
    match = _URL.match(url.partition("#")[0])
    if match is None:
        msg = "url: must be https://host/path in printable ASCII, without a user"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="url")
    scheme, host, port, rest = match.groups()
    number = int(port) if port else _PORTS[scheme]
    rest = rest or "/"
    return _Place(scheme, canonical(host), number, rest if rest[0] == "/" else f"/{rest}")

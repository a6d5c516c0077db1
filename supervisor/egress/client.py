"""HTTP to providers: pooled connections through the guard, time limits, retries, typed errors.

aiohttp is imported with this module, so import it where a provider is configured only. There is
one pool for all tenants: no cookies, no proxies from the environment, no redirects, no
decompression; what a call brings along is in its headers alone.
"""

import asyncio
import io
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from protocol import egress
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress import refused
from supervisor.egress.addresses import Guard
from supervisor.egress.hosts import canonical, literal
from supervisor.egress.refused import Refusal
from supervisor.egress.upstream import BrokenOffError, Target

ANSWER_BYTES_MAX: Final = 7 * 1024 * 1024
"""Of an answer that is not streamed: it has to fit a frame."""
STREAM_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of a streamed one: a provider's envelopes are some hundred bytes a token."""
CONNECTIONS_MAX: Final = 4096
KEEP_ALIVE_SECONDS: Final = 30.0
BACKOFF_SECONDS: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 8.0
RETRY_AFTER_SECONDS_MAX: Final = 20.0
"""A provider that wants to be left alone for longer is not waited for: the caller is told."""
_AT_ONCE_BYTES: Final = 512 * 1024
_LAST_BYTES_SECONDS: Final = 0.25
_LEAST_SECONDS: Final = 0.001
_OK: Final = 200


class Site(NamedTuple):
    """A provider's place, judged: https, or opened by the operator."""

    url: str
    """Without a trailing slash."""
    host: str
    port: int


class _Resolver(AbstractResolver):
    """The guard, as aiohttp asks: a connection goes to what this says and nowhere else."""

    def __init__(self, guard: Guard) -> None:
        self._guard: Final = guard

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """See `AbstractResolver`. Raises GatewayError."""
        return [
            ResolveResult(
                hostname=host, host=each.ip, port=port, family=each.family, proto=0, flags=0
            )
            for each in await self._guard.resolve(host, port)
        ]

    async def close(self) -> None:
        """See `AbstractResolver`."""


class _Connection(ResponseHandler):
    """One that lets nobody wait for more when it has ended.

    aiohttp's own, where what follows a head is no HTTP, closes the transport, stops its clock and
    tells nobody who reads the body: that one would wait for as long as the whole call may take.
    """

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.BaseProtocol`."""
        payload = self._payload
        super().connection_lost(exc)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError("the connection has ended"))


class _Connector(aiohttp.TCPConnector):
    def __init__(self, guard: Guard, trust: ssl.SSLContext) -> None:
        super().__init__(
            resolver=_Resolver(guard),
            use_dns_cache=False,
            limit=CONNECTIONS_MAX,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ssl=trust,
        )
        self._factory: Callable[[], ResponseHandler] = partial(  # type: ignore[assignment]
            _Connection, loop=asyncio.get_running_loop()
        )


class Client:
    """Asks providers. Belongs to one event loop.

    Args:
        settings: Time limits, retries, `allow_hosts`.
        guard: Instead of one by `settings`.
        trust: Whose certificates are believed; None is the system's.
        sleep: Waits before a retry, seconds.
    """

    def __init__(
        self,
        settings: egress.Settings,
        *,
        guard: Guard | None = None,
        trust: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._trust: Final = trust or ssl.create_default_context()
        self._sleep: Final = sleep
        self._retired: Final[set[aiohttp.ClientSession]] = set()
        self._closing: Final[set[asyncio.Task[None]]] = set()
        self._open(settings, guard or Guard(settings.allow_hosts))

    def configure(self, settings: egress.Settings) -> None:
        """Go by these from here on, with new connections; calls that have begun go on."""
        self._retired.add(self._session)
        wait = self._settings.total_seconds
        asyncio.get_running_loop().call_later(wait, self._end, self._session)
        self._open(settings, Guard(settings.allow_hosts))

    def _open(self, settings: egress.Settings, guard: Guard) -> None:
        self.guard = guard
        self._settings = settings
        self._limits = _limits(settings, settings.total_seconds)
        self._sites: dict[str, Site] = {}
        self._session = aiohttp.ClientSession(
            connector=_Connector(guard, self._trust),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    def _end(self, session: aiohttp.ClientSession) -> None:
        self._retired.discard(session)
        task = asyncio.get_running_loop().create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def body(
        self,
        response: aiohttp.ClientResponse,
        request_id: str,
        bytes_max: int = STREAM_BYTES_MAX,
    ) -> "Body":
        """Give what comes after the head of an answer; see `Body`."""
        return Body(response, self._settings.idle_seconds, request_id, bytes_max)

    async def close(self) -> None:
        """End every connection."""
        for session in (self._session, *self._retired):
            await session.close()

    async def site(self, base_url: str) -> Site:
        """Give a provider's place; looked at once, what its name says at every connection.

        Raises:
            GatewayError: INVALID_REQUEST, no URL of a provider; FORBIDDEN, not to be reached.
        """
        known = self._sites.get(base_url)
        if known is None:
            known = self._sites[base_url] = await self._judged(base_url)
        return known

    async def _judged(self, base_url: str) -> Site:
        try:
            url = URL(base_url)
            host, port = canonical(url.raw_host or ""), url.port or 0
        except ValueError:
            host, port, url = "", 0, URL()
        if url.scheme not in ("https", "http") or not host or url.user or url.query_string:
            raise GatewayError(ErrorCode.INVALID_REQUEST, "base_url: must be an https URL")
        if url.scheme == "http" and not self.guard.opens(host, port):
            msg = f"{host}:{port}: is reached by https only; egress.allow_hosts opens it for http"
            raise GatewayError(ErrorCode.FORBIDDEN, msg, host=host)
        if literal(host) is not None:
            # aiohttp asks its resolver about names only.
            await self.guard.resolve(host, port)
        return Site(str(url).rstrip("/"), host, port)

    async def post(
        self, target: Target, url: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request until it is answered with 200; nothing of the answer is read then.

        Whoever asks closes the response, which ends the connection unless all has been read.
        Repeated is what was refused for now or not answered at all, after a wait with full jitter
        (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), or as long as
        the provider says.

        Args:
            target: Whom it goes to.
            url: Of a `Site`, with a path.
            headers: All but the connection's own.
            body: JSON.

        Raises:
            GatewayError: see `supervisor.egress.refused`.
        """
        loop = asyncio.get_running_loop()
        limits, deadline = self._limits, loop.time() + self._settings.total_seconds
        attempt = 0
        while True:
            attempt += 1
            refusal = await self._attempt(target, url, headers, body, limits)
            if isinstance(refusal, aiohttp.ClientResponse):
                return refusal
            wait = random.uniform(0, min(BACKOFF_SECONDS * 2**attempt, BACKOFF_SECONDS_MAX))  # noqa: S311 - no secret
            wait = max(wait, refusal.after_seconds)
            if (
                not refusal.again
                or attempt > self._settings.retries
                or refusal.after_seconds > RETRY_AFTER_SECONDS_MAX
                or loop.time() + wait >= deadline
            ):
                raise refusal.error
            await self._sleep(wait)
            limits = _limits(self._settings, max(deadline - loop.time(), _LEAST_SECONDS))

    async def get(self, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Ask for a page, once; the caller has judged its host, where it is an address.

        Raises:
            GatewayError: the guard's, of a name.
            aiohttp.ClientError: it is not answered.
            TimeoutError: not in time.
        """
        return await self._session.get(
            url, headers=headers, allow_redirects=False, timeout=self._limits
        )

    async def _attempt(
        self,
        target: Target,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse | Refusal:
        # aiohttp warns of big bytes: it would have to write them in one go.
        data = body if len(body) <= _AT_ONCE_BYTES else io.BytesIO(body)
        try:
            response = await self._session.post(
                URL(url, encoded=True),
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=limits,
            )
        except GatewayError as error:  # the guard's
            return Refusal(error, again=error.code is ErrorCode.UNAVAILABLE)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            name = target.model.provider
            return refused.by_exception(f"provider {name}", error, provider=name)
        if response.status == _OK:
            return response
        try:
            words = await _beginning(response)
        finally:
            response.close()
        return refused.by_status(target, response.status, response.headers, words)


def _limits(settings: egress.Settings, total_seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=total_seconds,
        # And not `connect`, which would have every call look at the clock for a place in the pool.
        sock_connect=settings.connect_seconds,
        sock_read=settings.first_byte_seconds,
    )


class Body:
    """What comes of an answer after its head, within its bounds.

    Args:
        response: What it is of.
        request_id: The provider's, for errors.
        bytes_max: Of all together.

    Raises:
        BrokenOffError: it is compressed, which nobody has asked for.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        idle_seconds: float,
        request_id: str,
        bytes_max: int = STREAM_BYTES_MAX,
    ) -> None:
        self._response: Final = response
        self._idle_seconds: Final = idle_seconds
        self._request_id: Final = request_id
        self._left = bytes_max
        self._heard = False
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._broken("the provider's answer is compressed")
        if (response.content_length or 0) > bytes_max:
            raise self._broken("the provider's answer is too long")

    async def read(self) -> bytes:
        """Give what has come; empty at the end.

        Raises:
            BrokenOffError: it did not come to its end, or is too long.
        """
        try:
            data = await self._response.content.readany()
        except TimeoutError:
            raise self._broken("the provider fell silent, or took too long") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise self._broken("the provider's answer broke off") from None
        self._left -= len(data)
        if self._left < 0:
            raise self._broken("the provider's answer is too long")
        if not self._heard:
            self._heard = True
            self._expect_more()
        return data

    async def whole(self) -> bytes:
        """Give all of it.

        Raises:
            BrokenOffError: as `read`.
        """
        data = await self.read()
        if self._response.content.at_eof():
            return data
        pieces = [data]
        while data := await self.read():
            pieces.append(data)
        return b"".join(pieces)

    async def finish(self) -> None:
        """Have the connection used again after an answer that has said its last, if it can be."""
        try:
            async with asyncio.timeout(_LAST_BYTES_SECONDS):
                await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._response.close()

    def _expect_more(self) -> None:
        """Wait for the next bytes no longer than a silence in the middle may be."""
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = self._idle_seconds
            connection.protocol.start_timeout()

    def _broken(self, cause: str) -> BrokenOffError:
        return BrokenOffError(cause, None, self._request_id)


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Give the beginning of an error's body, as far as it comes soon."""
    found = b""
    try:
        async with asyncio.timeout(refused.WORDS_SECONDS):
            while len(found) < refused.WORDS_BYTES_MAX:
                piece = await response.content.readany()
                if not piece:
                    break
                found += piece
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        pass
    return found[: refused.WORDS_BYTES_MAX]

"""What an operator does on the command line with a tenant's own methods.

The admin key opens the control plane and nothing that is a tenant's. So a command has the control
plane make a token for itself, of the scopes it needs and of a short life, and revokes it at the
end. The audit has both; the token's name says who it was and what for. A command that is killed
leaves a token that ends by itself.
"""

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Generator, Iterator
from typing import Any, Final, NoReturn

import msgspec
from msgspec import UNSET, UnsetType

from cli.client import RemoteTenants, SilentGatewayError, open_gateway
from protocol import limits
from protocol.control.shapes import CreateToken, ScopeName
from protocol.errors import ErrorCode, GatewayError

LIFE_SECONDS: Final = 300
ANSWER_SECONDS: Final = 60.0
_NONCE_BYTES: Final = 4
# What a shell gives for a program that a signal has ended, less the number.
_SIGNAL_EXIT: Final = 128


class _Error(msgspec.Struct, frozen=True):
    message: str
    data: dict[str, Any]


class _Response(msgspec.Struct, frozen=True):
    result: msgspec.Raw | UnsetType = UNSET
    error: _Error | None = None


_response_decoder: Final = msgspec.json.Decoder(_Response)


class Acting:
    """A tenant's methods, with a token of our own.

    Args:
        gateway: The gateway that runs.
        tenant: For whom.
        purpose: What for, in at most 12 characters of a token's name.
        scopes: What the token allows.
        seconds: How long it lives.
    """

    def __init__(
        self,
        gateway: RemoteTenants,
        tenant: str,
        purpose: str,
        scopes: tuple[ScopeName, ...],
        seconds: int,
    ) -> None:
        self.gateway: Final = gateway
        self.tenant: Final = tenant
        self._label: Final = f"cli-{os.getuid()}-{purpose}"
        self._scopes: Final = scopes
        self._seconds: Final = seconds
        self._token_id: str | None = None
        self.secret = ""
        """The token. Whoever holds it for longer than its life calls `renew`."""

    def renew(self) -> None:
        """Take another token, and revoke the one before; that cuts what was opened with it.

        Raises:
            GatewayError: as the control plane says, NOT_FOUND for a tenant that is not there.
        """
        before = self._token_id
        created = self.gateway.create_token(
            self.tenant,
            CreateToken(
                name=f"{self._label}-{secrets.token_hex(_NONCE_BYTES)}",
                scopes=self._scopes,
                expires_in_seconds=self._seconds,
            ),
        )
        self._token_id, self.secret = created["tokenId"], created["token"]
        self._revoke(before)

    def end(self) -> None:
        """Revoke the token."""
        token_id, self._token_id = self._token_id, None
        self._revoke(token_id)

    def _revoke(self, token_id: str | None) -> None:
        # It may be over, and its tenant or the gateway gone.
        if token_id is not None:
            with contextlib.suppress(GatewayError):
                self.gateway.revoke_token(self.tenant, token_id)

    def call(self, method: str, params: object, seconds: float = ANSWER_SECONDS) -> bytes:
        """Call a method; gives its result as JSON.

        Raises:
            GatewayError: the method's refusal, or UNAVAILABLE: nobody answers in time.
        """
        last = None
        for _, data in self._events(method, params, seconds, streams=False):
            last = data
        assert last is not None
        return last

    def stream(
        self, method: str, params: object, seconds: float = limits.CALL_SECONDS_MAX
    ) -> Generator[tuple[str, bytes], None, None]:
        """Call a method and give what it streams as it comes, name and JSON.

        The last one is named `result`. `seconds` bounds each wait.

        Raises:
            GatewayError: as `call`.
        """
        yield from self._events(method, params, seconds, streams=True)

    def _events(
        self, method: str, params: object, seconds: float, *, streams: bool
    ) -> Iterator[tuple[str, bytes]]:
        import http.client  # noqa: PLC0415 - it brings TLS and e-mail along

        connection = self.gateway.connection(seconds)
        headers = {
            "Authorization": f"Bearer {self.secret}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if streams else "application/json",
        }
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            connection.request("POST", "/rpc", msgspec.json.encode(call), headers)
            response = connection.getresponse()
            if response.getheader("Content-Type") != "text/event-stream":
                yield "result", _result(response.read(limits.FRAME_BYTES_MAX))
                return
            yield from _read_events(response)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            msg = f"the gateway does not answer: {error}"
            raise SilentGatewayError(ErrorCode.UNAVAILABLE, msg) from error
        finally:
            connection.close()


def _read_events(lines: Any) -> Iterator[tuple[str, bytes]]:
    """Read server-sent events to the one that is the response."""
    name = ""
    while line := lines.readline(limits.FRAME_BYTES_MAX):
        field, _, value = line.rstrip(b"\n").partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data" and name == "result":
            yield name, _result(value)
            return
        elif field == b"data":
            yield name, value
    msg = "the stream ended before its result"
    raise ValueError(msg)


def _result(body: bytes) -> bytes:
    response = _response_decoder.decode(body)
    if not isinstance(response.result, UnsetType):
        return bytes(response.result)
    if response.error is None:
        msg = "neither a result nor an error"
        raise ValueError(msg)
    details = dict(response.error.data)
    code = ErrorCode.__members__.get(details.pop("code", ""), ErrorCode.INTERNAL)
    raise GatewayError(code, response.error.message, **details)


@contextlib.contextmanager
def acting(
    tenant: str,
    purpose: str,
    *,
    scopes: tuple[ScopeName, ...] = ("write",),
    seconds: int = LIFE_SECONDS,
) -> Iterator[Acting]:
    """Give a tenant's methods, and revoke the token at the end, also at a signal's.

    What the gateway refuses, or that there is none, ends the command with a message.

    Args:
        tenant: For whom.
        purpose: What for, in at most 12 characters of a token's name.
        scopes: What the token allows; `write` also reads.
        seconds: How long it lives at most, and with it what is opened with it.
    """
    with open_gateway() as gateway, _signals_exit():
        acts = Acting(gateway, tenant, purpose, scopes, seconds)
        try:
            acts.renew()
            yield acts
        finally:
            acts.end()


@contextlib.contextmanager
def _signals_exit() -> Iterator[None]:
    """Leave by the way of exceptions when we are told to end."""
    before = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _frame: object) -> NoReturn:
    sys.exit(_SIGNAL_EXIT + number)

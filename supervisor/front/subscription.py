"""Which events of its tenant one connection gets."""

from collections.abc import Iterable
from typing import Final

import msgspec

from protocol import limits, params
from protocol.errors import RemoteProtocolError
from protocol.methods.events import SUBSCRIBE, UNSUBSCRIBE, SubscribeParams, UnsubscribeParams

RESET: Final = "events.reset"
"""Says that events were missed; every subscriber gets it."""


class _Payload(msgspec.Struct, frozen=True, rename="camel"):
    session_key: str | None = None


class _Body(msgspec.Struct, frozen=True):
    payload: _Payload = _Payload()


_subscribe_decoder: Final = msgspec.json.Decoder(SubscribeParams)
_unsubscribe_decoder: Final = msgspec.json.Decoder(UnsubscribeParams)
_body_decoder: Final = msgspec.json.Decoder(_Body)
_encode: Final = msgspec.json.Encoder().encode


class Event:
    """One event from a worker.

    `body` is a JSON object with `cursor` and `payload`; it is not read unless somebody wants the
    events of some sessions only.
    """

    __slots__ = ("_session_key", "_start", "_tail", "name")

    def __init__(self, name: str, body: bytes) -> None:
        """Take what a worker sent.

        Raises:
            RemoteProtocolError: it is no object, or over its bound.
        """
        if len(body) > limits.EVENT_BYTES_MAX or not (body[:1] == b"{" and body[-1:] == b"}"):
            reason = f"an event of {len(body)} bytes, or one that is no object"
            raise RemoteProtocolError(reason)
        self.name: Final = name
        self._start: Final = b'{"jsonrpc":"2.0","method":"event","params":{"event":%b,"seq":' % (
            _encode(name)
        )
        self._tail: Final = b",%b}" % body[1:] if len(body) > len(b"{}") else b"}}"
        self._session_key: str | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return len(self._tail)

    @property
    def session_key(self) -> str | None:
        """The session it is about, if it is about one."""
        if self._session_key is msgspec.UNSET:
            try:
                body = _body_decoder.decode(b"{" + self._tail[1:-1])
                self._session_key = body.payload.session_key
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._session_key = None
        return self._session_key or None

    def message(self, seq: int) -> bytes:
        """Give the notification that carries it, the `seq`th event of its connection."""
        return b"%b%d%b" % (self._start, seq, self._tail)


class Subscription:
    """What one connection has subscribed to."""

    __slots__ = ("_events", "_session_keys")

    def __init__(self, wanted: SubscribeParams) -> None:
        self._events: Final = _set(wanted.events)
        self._session_keys: Final = _set(wanted.session_keys)

    def takes(self, event: Event) -> bool:
        """Say whether it has subscribed to this."""
        if event.name == RESET:
            return True
        if self._events is not None and event.name not in self._events:
            return False
        return self._session_keys is None or event.session_key in self._session_keys


def subscribed(body: bytes) -> Subscription:
    """Read the parameters of `events.subscribe`. Raises as `protocol.params.decode`."""
    return Subscription(params.decode(SUBSCRIBE.name, _subscribe_decoder, body))


def check_unsubscribe(body: bytes) -> None:
    """Read the parameters of `events.unsubscribe`. Raises as `subscribed`."""
    params.decode(UNSUBSCRIBE.name, _unsubscribe_decoder, body)


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)

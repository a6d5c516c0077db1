"""The opening handshake of WebSocket (RFC 6455, section 4), on our own HTTP.

Who may be heard is decided where it is for every request: what is here only reads what this kind
of request has beside the others.
"""

import binascii
import re
from typing import Final

from websockets.utils import accept_key

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.front.exchange import Asked, Upgrade
from supervisor.front.head import Head, malformed

CALLS: Final = "openclaw.v1"
TERMINAL: Final = "openclaw.terminal.v1"
VERSION: Final = b"13"
_PROTOCOLS_MAX: Final = 16
# A browser's page can set no header but this one.
_BEARER: Final = re.compile(rf"bearer\.([\x21-\x7e]{{1,{limits.BEARER_CHARS_MAX}}})\Z")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_KEY_BYTES: Final = 16


def check(asked: Asked, head: Head, *, served: bool) -> None:
    """Read what a client that asks for another protocol has said into `asked`.

    Args:
        asked: What else it asks for.
        head: The complete head.
        served: Whether WebSocket is spoken at this path.

    Raises:
        GatewayError: MALFORMED_REQUEST: none is served there, or it may not be asked for like this.
    """
    fields = head.fields
    if not served or fields.get(b"upgrade", b"").lower() != b"websocket":
        raise malformed("no protocol upgrade is served here")
    if asked.old_version or asked.verb != "GET":
        raise malformed("upgrade: only a GET of HTTP/1.1 can ask for it")
    if head.content_length or b"transfer-encoding" in fields:
        raise malformed("upgrade: the request has no body")
    protocols = _offered(fields.get(b"sec-websocket-protocol"))
    secrets = [match.group(1) for name in protocols if (match := _BEARER.match(name))]
    if len(secrets) + (b"authorization" in fields) > 1:
        raise malformed("give one token, as Authorization or as subprotocol")
    if secrets:
        asked.secret = secrets[0]
    asked.upgrade = Upgrade(
        fields.get(b"sec-websocket-key", b""),
        fields.get(b"sec-websocket-version", b""),
        tuple(name for name in protocols if not _BEARER.match(name)),
    )


def accept(upgrade: Upgrade, protocol: str) -> bytes:
    """Give the head of the response that changes the protocol; no token is in it.

    Args:
        upgrade: What the client has said.
        protocol: The subprotocol that is spoken.

    Raises:
        GatewayError: UPGRADE_REQUIRED for another version, else MALFORMED_REQUEST.
    """
    if upgrade.version != VERSION:
        msg = "sec-websocket-version: only 13 is spoken"
        raise GatewayError(ErrorCode.UPGRADE_REQUIRED, msg)
    try:
        key = binascii.a2b_base64(upgrade.key, strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise malformed(f"sec-websocket-key: must be {_KEY_BYTES} bytes in base64")
    chosen = b""
    if protocol in upgrade.protocols:
        chosen = b"Sec-WebSocket-Protocol: %b\r\n" % protocol.encode()
    elif upgrade.protocols:
        raise malformed(f"sec-websocket-protocol: only {protocol} is spoken")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept_key(upgrade.key.decode()).encode(), chosen)
    )


def _offered(field: bytes | None) -> list[str]:
    if field is None:
        return []
    names = [name.strip(b" \t") for name in field.split(b",")]
    if len(names) > _PROTOCOLS_MAX or not all(_TOKEN.match(name) for name in names):
        raise malformed(f"sec-websocket-protocol: must be at most {_PROTOCOLS_MAX} names")
    return [name.decode("ascii") for name in names]

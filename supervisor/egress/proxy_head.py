"""What a client asks of the proxy: `CONNECT`, or a request with a whole URL (RFC 9110, 9112).

Strict: what two readers could understand in two ways is refused. After the head bytes are passed on
as they are, to the one host that was named: whatever they say, they reach nobody else.
"""

import re
from typing import Final, NamedTuple

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.hosts import host_port

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.[01]")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_URL: Final = re.compile(rb"http://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_HTTP_PORT: Final = 80
# Of this connection and not of the request (RFC 9110, section 7.6.1); `Host` is the URL's.
_OURS: Final = frozenset(
    (
        *(b"connection", b"host", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"upgrade"),
    )
)
_LENGTHS: Final = (b"content-length", b"transfer-encoding")


class Asked(NamedTuple):
    """Where to, and the head that goes there; None: a tunnel, whose client is told that it is."""

    host: str
    port: int
    head: bytes | None


def read_head(data: bytes) -> Asked:
    """Read a head with the empty line at its end.

    Raises:
        GatewayError: INVALID_REQUEST, it is none.
    """
    line, *fields = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise _invalid("the first line is no request of HTTP/1.1")
    method, target = found.groups()
    kept = _fields(fields)
    if method == b"CONNECT":
        return Asked(*_place(target), None)
    url = _URL.fullmatch(target)
    if url is None:
        raise _invalid("ask for a whole http:// URL, or CONNECT for https")
    authority, path = url.groups(b"")
    port = re.search(rb":[0-9]+\Z", authority)
    host, number = _place(authority if port else authority + b":%d" % _HTTP_PORT)
    path = path if path.startswith(b"/") else b"/" + path
    head = b"%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n" % (method, path, authority)
    return Asked(host, number, head + b"".join(b"%s: %s\r\n" % field for field in kept) + b"\r\n")


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise _invalid("a header that is none")
        found.append((field[1], field[2]))
    names = [name.lower() for name, _ in found]
    if sum(names.count(name) for name in _LENGTHS) > 1:
        raise _invalid("more than one length")
    dropped = set(_OURS)
    for name, value in found:
        if name.lower() == b"connection":
            dropped.update(option.strip().lower() for option in value.split(b","))
    dropped.difference_update(_LENGTHS)
    return [field for field, name in zip(found, names, strict=True) if name not in dropped]


def _place(target: bytes) -> tuple[str, int]:
    return host_port(target.decode("ascii", errors="replace"))


def _invalid(why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_REQUEST, f"proxy: {why}")

"""Hosts as they are written: one spelling for each, and none that only some would understand."""

import ipaddress
import re
from typing import Final

from protocol.errors import ErrorCode, GatewayError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PORT_MAX: Final = 65_535
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_NAME_CHARS_MAX: Final = 253  # RFC 1035, section 2.3.4, without the last dot
# Underscores are in nobody's host name (RFC 952), but in names that resolve.
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}\Z")
# What the C library, and the WHATWG's URL standard, would read as an IPv4 address.
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


def literal(host: str) -> IPAddress | None:
    """Give the address that `host`, without brackets, is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def canonical(host: str) -> str:
    """Give a host as it is compared: lower case, no last dot, an address in its one spelling.

    Args:
        host: A name or an address, with or without brackets.

    Raises:
        GatewayError: INVALID_REQUEST, it is neither, or an address in a spelling that only some
            read as one (decimal, octal, hexadecimal, short, with a zone).
    """
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    address = literal(bare)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise invalid(host, "an address with a zone is not reached")
        return str(address)
    if address is not None and bare is host:
        return host
    name = host.lower().removesuffix(".")
    if len(name) > _NAME_CHARS_MAX or not _NAME.match(name):
        raise invalid(host, "is no host name; write an internationalized one in its ASCII form")
    if _NUMBER.match(name.rpartition(".")[2]):
        raise invalid(host, "is a number; write an IPv4 address as four decimal numbers")
    return name


def host_port(text: str) -> tuple[str, int]:
    """Give the two of `host:port`, an IPv6 address in brackets.

    Raises:
        GatewayError: INVALID_REQUEST, it is not that.
    """
    host, _, port = text.rpartition(":")
    if not (_PORT.match(port) and int(port) <= PORT_MAX):
        raise GatewayError(ErrorCode.INVALID_REQUEST, f"{shown(text)}: must be host:port")
    if ":" in host and not host.startswith("["):
        raise GatewayError(
            ErrorCode.INVALID_REQUEST, f"{shown(text)}: write an IPv6 address in brackets"
        )
    return canonical(host), int(port)


def fetch_host(text: str) -> tuple[str, int | None]:
    """Give name, with its `*.`, and port of an entry of `fetch_hosts`.

    Raises:
        GatewayError: INVALID_REQUEST, it is none.
    """
    star = "*." if text.startswith("*.") else ""
    host, colon, _ = text.removeprefix("*.").partition(":")
    if colon:
        name, port = host_port(text.removeprefix("*."))
        return star + name, port
    return star + canonical(host), None


def shown(text: str) -> str:
    """Give a host as a message may have it."""
    return ascii(text[: _NAME_CHARS_MAX + 1])[1:-1]


def invalid(host: str, why: str) -> GatewayError:
    """Give the refusal of what is no host."""
    return GatewayError(ErrorCode.INVALID_REQUEST, f"{shown(host)}: {why}")

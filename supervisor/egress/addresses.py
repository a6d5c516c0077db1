"""Which addresses may be reached: the guard against requests into our own network (SSRF).

A name is looked up once; every address that it has is judged, and the connection goes to one of
those: there is no second look-up in which the name could say something else (DNS rebinding). What
is not plainly an address of the public internet is refused, unless the operator has named it.

IPv4 is judged by what is not public, IPv6 by what is (`2000::/3`), both after IANA's registries of
special-purpose addresses (RFC 6890 and its updates). An IPv4 address inside an IPv6 one is judged
like itself.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.hosts import (
    PORT_MAX,
    IPAddress,
    canonical,
    host_port,
    invalid,
    literal,
    shown,
)

Lookup = Callable[[str, int], Awaitable[Iterable[str]]]
"""Gives the numeric addresses of a name. Raises OSError."""

LOOKUP_SECONDS: Final = 5.0
ADDRESSES_MAX: Final = 16


class Address(NamedTuple):
    """Where a connection may go."""

    ip: str
    """Numeric."""
    port: int
    family: socket.AddressFamily


_NEVER_BY_NAME: Final = "link-local, metadata or no host's"
_INTERNAL: Final = "internal"
_INTERNAL_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "198.18.0.0/15",
        ),
    )
)
_NEVER_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "168.63.129.16/32",  # Azure's host
            "169.254.0.0/16",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_METADATA_4: Final = frozenset(map(ipaddress.IPv4Address, ("100.100.100.200",)))
_METADATA_6: Final = frozenset(
    map(ipaddress.IPv6Address, ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"))
)
_INTERNAL_6: Final = tuple(map(ipaddress.IPv6Network, ("::1/128", "fc00::/7")))
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        # Protocol assignments with Teredo, documentation, 6to4, documentation.
        ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214, section 6.1
_LOW_32: Final = 2**32 - 1


def refusal(address: IPAddress) -> str | None:
    """Say of what kind an address is that is not public; None for one that is."""
    if isinstance(address, ipaddress.IPv4Address):
        return _refusal_4(address)
    low = ipaddress.IPv4Address(int(address) & _LOW_32)
    if address.scope_id is None and (address in _MAPPED or address in _NAT64):
        return _refusal_4(low)
    kind = _refusal_6(address)
    if kind is None and int(address) >> 32 & _LOW_32 in _ISATAP:
        return _refusal_4(low)
    return kind


def _refusal_6(address: ipaddress.IPv6Address) -> str | None:
    if address.scope_id is not None or address in _METADATA_6:
        return _NEVER_BY_NAME
    if any(address in network for network in _INTERNAL_6):
        return _INTERNAL
    if address not in _PUBLIC_6 or any(address in network for network in _NOT_PUBLIC_6):
        return _NEVER_BY_NAME
    return None


def _refusal_4(address: ipaddress.IPv4Address) -> str | None:
    if address in _METADATA_4 or any(address in network for network in _NEVER_4):
        return _NEVER_BY_NAME
    return _INTERNAL if any(address in network for network in _INTERNAL_4) else None


class Guard:
    """Says where a connection may go.

    Args:
        allow_hosts: `host:port` that may be reached although it is internal. A name does not open
            what is link-local, a cloud's metadata or no host's address; only its address does.
        lookup: Asks for addresses.
        lookup_seconds: How long that may take.

    Raises:
        GatewayError: INVALID_REQUEST, one of `allow_hosts` is no `host:port`.
    """

    def __init__(
        self,
        allow_hosts: Iterable[str] = (),
        *,
        lookup: Lookup | None = None,
        lookup_seconds: float = LOOKUP_SECONDS,
    ) -> None:
        self._allowed: Final = frozenset(map(host_port, allow_hosts))
        self._lookup: Final = lookup or _system_lookup
        self._lookup_seconds: Final = lookup_seconds

    def opens(self, host: str, port: int) -> bool:
        """Say whether the operator has named this host, `canonical`, and port."""
        return (host, port) in self._allowed

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Look a host up once and judge what it is: the connection goes to one of these.

        One address that is refused refuses them all: whose name has one is not to be trusted
        with the others.

        Args:
            host: A name or an address.
            port: From 1 to 65535.

        Raises:
            GatewayError: INVALID_REQUEST, this is no host or port; FORBIDDEN, it is not public
                (it does not say which address it has); UNAVAILABLE, it has no address now.
        """
        name = canonical(host)
        if not 0 < port <= PORT_MAX:
            raise invalid(f"{name}:{port}", "a port is from 1 to 65535")
        address = literal(name)
        found = [address] if address is not None else await self._ask(name, port)
        for each in found:
            self._judge(each, name, port, by_name=address is None)
        return tuple(Address(str(each), port, _family(each)) for each in found)

    async def _ask(self, name: str, port: int) -> list[IPAddress]:
        try:
            async with asyncio.timeout(self._lookup_seconds):
                answer = list(dict.fromkeys(await self._lookup(name, port)))[:ADDRESSES_MAX]
        except (OSError, UnicodeError):
            answer = []
        if not answer:
            raise GatewayError(ErrorCode.UNAVAILABLE, f"{shown(name)}: has no address now")
        return [ipaddress.ip_address(each) for each in answer]

    def _judge(self, address: IPAddress, name: str, port: int, *, by_name: bool) -> None:
        kind = refusal(address) or (_INTERNAL if _is_our_own(address, port) else None)
        if kind is None or (self.opens(name, port) and not (by_name and kind == _NEVER_BY_NAME)):
            return
        shown = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        msg = f"{shown}: is not at a public address; egress.allow_hosts opens internal ones"
        raise GatewayError(ErrorCode.FORBIDDEN, msg, host=name)


async def _system_lookup(name: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _is_our_own(address: IPAddress, port: int) -> bool:
    """Say whether this machine has the address, and so whatever listens on all of its own.

    The kernel reaches an own address from that same address. Nothing is sent for it.
    """
    with (
        contextlib.suppress(OSError),
        socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe,
    ):
        probe.connect((str(address), port))
        return ipaddress.ip_address(probe.getsockname()[0]) == address
    return False


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6

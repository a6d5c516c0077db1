"""Where clients come from: who counts as one caller, and how many connections each may have."""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def network_of(address: str) -> str:
    """Give what one caller can be taken to hold: an IPv4 address, or the /64 of an IPv6 one."""
    parsed = _parse(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _parse(address: str) -> _Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


class Proxies:
    """The proxies that the operator has named, by address only.

    Args:
        networks: Addresses or networks in CIDR notation.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: Final[tuple[_Network, ...]] = tuple(map(ipaddress.ip_network, networks))

    def trusts(self, address: str) -> bool:
        """Say whether a peer is one of them."""
        return bool(self._networks) and self._holds(_parse(address))

    def client(self, peer: str, forwarded: bytes) -> str:
        """Give the address of the client: the peer's, or what trusted proxies say of it.

        `X-Forwarded-For` is read from the right, since every proxy appends whom it was called by:
        the first that is no trusted proxy is the client, and what stands before it is hearsay.

        Args:
            peer: Whom the connection is from.
            forwarded: Value of `X-Forwarded-For`; of several fields, joined by commas.
        """
        address = peer
        hops = forwarded.decode("latin-1").split(",")
        while hops and self.trusts(address):
            hop = _parse(hops.pop().strip())
            if hop is None:
                break
            address = str(hop)
        return address

    def _holds(self, address: _Address | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


class Places:
    """How many connections each caller has; a trusted proxy's are those of many."""

    def __init__(self) -> None:
        self.proxies = Proxies()
        self.each_max = 0
        self._taken: Final[Counter[str]] = Counter()

    def take(self, address: str) -> bool:
        """Take a place for a connection; False when the caller has too many."""
        network = network_of(address)
        if self._taken[network] >= self.each_max and not self.proxies.trusts(address):
            return False
        self._taken[network] += 1
        return True

    def give_back(self, address: str) -> None:
        """Give one place back."""
        network = network_of(address)
        self._taken[network] -= 1
        if not self._taken[network]:
            del self._taken[network]

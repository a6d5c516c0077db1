"""The guard against requests into our own network: spellings, kinds, rebinding."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress import addresses
from supervisor.egress.addresses import Address, Guard, refusal
from supervisor.egress.hosts import canonical, host_port

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

INTERNAL = [
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "198.19.0.1",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "64:ff9b::10.0.0.1",
    "2600::5efe:10.0.0.1",
    "2600::200:5efe:192.168.0.1",
]
NEVER_BY_NAME = [
    "0.0.0.0",
    "0.1.2.3",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::127.0.0.1",
    "::8.8.8.8",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "100::1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
]
OPEN = [
    PUBLIC,
    PUBLIC_6,
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2600::5efe:1.1.1.1",
]


def answers(*found: str) -> Callable[[str, int], Awaitable[list[str]]]:
    async def lookup(_name: str, _port: int) -> list[str]:
        return list(found)

    return lookup


async def refused(guard: Guard, host: str, port: int = 443) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await guard.resolve(host, port)
    return caught.value


@pytest.mark.parametrize("address", INTERNAL + NEVER_BY_NAME)
async def test_what_is_not_public_is_refused_by_address_and_by_name(address: str) -> None:
    for host in (address, f"[{address}]") if ":" in address else (address,):
        error = await refused(Guard(), host)
        assert error.code is ErrorCode.FORBIDDEN
        assert "egress.allow_hosts" in error.message
    error = await refused(Guard(lookup=answers(PUBLIC, address)), "example.com")
    assert error.code is ErrorCode.FORBIDDEN
    assert address not in error.message


@pytest.mark.parametrize("address", OPEN)
async def test_what_is_public_is_reached_at_exactly_that_address(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    expected = (Address(str(ipaddress.ip_address(address)), 443, family),)
    assert await Guard().resolve(address, 443) == expected
    assert await Guard(lookup=answers(address)).resolve("example.com", 443) == expected


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "0x",
        "0",
        "1.2.3.4.5",
        "256.1.1.1",
        "127.0.0.0x1",
        "8.8.8.010",
        "134744072",
        "example.0x7f",
        "[127.0.0.1]",
        "fe80::1%eth0",
        "[fe80::1%25lo]",
        "::1%lo",
        "[::1",
        "::1]",
        "user@example.com",
        "example.com:80",
        "example.com/",
        "example.com\\@127.0.0.1",
        "exa mple.com",
        "example.com\x00.test",
        "example.com\n",
        "\t127.0.0.1",
        "example..com",
        ".example.com",
        "example.com..",
        ".",
        "",
        "-a.com",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "\uff11\uff12\uff17.0.0.1",
        "ⓔxample.com",
        "l\u00adocalhost",
        "a" * 64 + ".com",
        "a." * 127 + "com",
    ],
)
async def test_what_is_no_plain_host_is_refused_before_it_is_looked_up(host: str) -> None:
    async def lookup(name: str, _port: int) -> list[str]:
        raise AssertionError(name)

    error = await refused(Guard(lookup=lookup), host)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert error.message.isascii()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("LOCALHOST.", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_srv.example.com", "_srv.example.com"),
        ("1.1.1.1", "1.1.1.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2600:0::A", "2600::a"),
        ("0x7f.example", "0x7f.example"),
    ],
)
def test_a_host_has_one_spelling(host: str, expected: str) -> None:
    assert canonical(host) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize("port", [0, -1, 65_536, 2**70])
async def test_what_is_no_port_is_refused(port: int) -> None:
    assert (await refused(Guard(), "example.com", port)).code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "ip6-localhost.localdomain"])
async def test_the_system_is_asked_and_its_answer_judged(host: str) -> None:
    assert (await refused(Guard(), host)).code in (ErrorCode.FORBIDDEN, ErrorCode.UNAVAILABLE)


async def test_a_name_that_changes_its_address_is_judged_each_time_and_looked_up_once() -> None:
    said = [[PUBLIC], ["127.0.0.1"], [PUBLIC, "169.254.169.254"], [PUBLIC_6]]
    asked: list[str] = []

    async def lookup(name: str, _port: int) -> list[str]:
        asked.append(name)
        return said[len(asked) - 1]

    guard = Guard(lookup=lookup)
    assert [address.ip for address in await guard.resolve("rebind.test", 443)] == [PUBLIC]
    assert (await refused(guard, "rebind.test")).code is ErrorCode.FORBIDDEN
    assert (await refused(guard, "rebind.test")).code is ErrorCode.FORBIDDEN
    assert [address.ip for address in await guard.resolve("rebind.test", 443)] == [PUBLIC_6]
    assert len(asked) == 4


async def test_only_the_named_host_and_port_are_opened() -> None:
    guard = Guard(["127.0.0.1:11434", "[::1]:80", "Ollama.internal.:11434"])
    assert (await guard.resolve("127.0.0.1", 11434))[0].ip == "127.0.0.1"
    assert (await guard.resolve("::1", 80))[0].ip == "::1"
    for host, port in [("127.0.0.1", 11435), ("127.0.0.2", 11434), ("::1", 11434)]:
        assert (await refused(guard, host, port)).code is ErrorCode.FORBIDDEN
    # What has the address that was opened is not what was opened.
    named = Guard(["127.0.0.1:443"], lookup=answers("127.0.0.1"))
    assert (await refused(named, "other.test")).code is ErrorCode.FORBIDDEN


async def test_an_opened_name_may_be_internal_but_is_never_the_metadata_service() -> None:
    for address in INTERNAL:
        guard = Guard(["ollama.internal:443"], lookup=answers(address))
        assert len(await guard.resolve("ollama.internal.", 443)) == 1
    for address in NEVER_BY_NAME:
        guard = Guard(["ollama.internal:443"], lookup=answers(address))
        assert (await refused(guard, "ollama.internal")).code is ErrorCode.FORBIDDEN
    assert len(await Guard(["169.254.169.254:80"]).resolve("169.254.169.254", 80)) == 1


@pytest.mark.parametrize(
    "text",
    ["", "example.com", ":80", "example.com:", "example.com:0", "example.com:65536", "::1:80",
     "example.com:+80", "example.com:٨٠", "example.com:0080", "127.1:80", "http://a:80"],
)  # fmt: skip
def test_what_is_opened_must_be_host_and_port(text: str) -> None:
    with pytest.raises(GatewayError) as caught:
        host_port(text)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_no_answer_and_a_late_one_are_unavailable() -> None:
    async def fails(_name: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async def hangs(_name: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    for lookup in (fails, hangs, answers()):
        guard = Guard(lookup=lookup, lookup_seconds=0.01)
        assert (await refused(guard, "example.com")).code is ErrorCode.UNAVAILABLE


def test_this_machines_own_addresses_are_known() -> None:
    assert addresses._is_our_own(ipaddress.ip_address("127.0.0.1"), 80)
    assert not addresses._is_our_own(ipaddress.ip_address(PUBLIC), 80)


async def test_this_machines_own_public_address_is_internal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "refusal", lambda _address: None)
    assert (await refused(Guard(), "127.0.0.1")).code is ErrorCode.FORBIDDEN


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_private_is_let_through(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    judged = refusal(address)
    embedded = getattr(address, "ipv4_mapped", None)
    if embedded is not None:
        assert judged == refusal(embedded)
    elif judged is None:
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not address.is_multicast
        assert not getattr(address, "sixtofour", None)
        assert not getattr(address, "teredo", None)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    for outer in (f"::ffff:{address}", f"64:ff9b::{address}", f"2600::5efe:{address}"):
        assert refusal(ipaddress.ip_address(outer)) == refusal(address)


@given(st.text(max_size=300) | st.from_regex(r"[0-9a-fx:.%\[\]]{1,40}", fullmatch=True))
def test_any_text_is_a_canonical_host_or_refused(text: str) -> None:
    try:
        host = canonical(text)
    except GatewayError as error:
        code, host = error.code, ""
    else:
        code = ErrorCode.INVALID_REQUEST
        assert canonical(host) == host == host.lower()
    assert code is ErrorCode.INVALID_REQUEST
    assert host.isascii()

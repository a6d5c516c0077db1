import pytest

from supervisor.front.addresses import Places, Proxies, network_of


def test_a_caller_is_an_ipv4_address_or_a_network_of_ipv6() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9%eth0")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("10.0.0.1") == network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("") == ""


PROXIES = Proxies(["10.0.0.0/8", "2001:db8::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", b"", "192.0.2.1"),
        ("192.0.2.1", b"198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("::ffff:10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("2001:db8::1", b"198.51.100.7", "198.51.100.7"),
        ("2001:db8::2", b"198.51.100.7", "2001:db8::2"),
        # Of a chain only what trusted proxies have added counts.
        ("10.0.0.1", b"203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", b"2001:DB8:5::7", "2001:db8:5::7"),
        # What is no address is nobody's word.
        ("10.0.0.1", b"unknown", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.7, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", b"198.51.100.7:1234", "10.0.0.1"),
        ("10.0.0.1", b"\xff\xfe", "10.0.0.1"),
    ],
)
def test_who_the_client_is(peer: str, forwarded: bytes, client: str) -> None:
    assert PROXIES.client(peer, forwarded) == client


def test_places_are_counted_by_caller_and_given_back() -> None:
    places = Places()
    places.each_max = 2
    places.proxies = PROXIES
    assert [places.take("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert places.take("192.0.2.2")
    assert [places.take(f"2001:db8:9:9::{host}") for host in range(3)] == [True, True, False]
    assert all(places.take("10.0.0.1") for _ in range(5))
    places.give_back("192.0.2.1")
    assert [places.take("192.0.2.1") for _ in range(2)] == [True, False]

"""What the proxy reads, and what it sends on."""

import pytest

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.proxy_head import Asked, read_head


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


def test_a_tunnel() -> None:
    asked = read_head(head("CONNECT PyPI.org.:443 HTTP/1.1", "Host: pypi.org:443"))
    assert asked == Asked("pypi.org", 443, None)


def test_a_request_goes_on_with_the_host_of_its_url_and_without_what_is_ours() -> None:
    asked = read_head(
        head(
            "POST http://one.example/a?b=1 HTTP/1.1",
            "Host: two.example",
            "Proxy-Authorization: Basic x",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "Content-Length: 3",
            "X-Kept: \xe9",
        )
    )
    assert (asked.host, asked.port) == ("one.example", 80)
    assert asked.head == head(
        "POST /a?b=1 HTTP/1.1",
        "Host: one.example",
        "Connection: close",
        "Content-Length: 3",
        "X-Kept: \xe9",
    )


@pytest.mark.parametrize(
    ("url", "target"),
    [("http://a.example:8080", "/"), ("HTTP://a.example:8080?x", "/?x")],
)
def test_a_url_without_a_path(url: str, target: str) -> None:
    asked = read_head(head(f"GET {url} HTTP/1.1"))
    assert asked.port == 8080
    assert asked.head is not None
    assert asked.head.startswith(f"GET {target} HTTP/1.1\r\nHost: a.example:8080\r\n".encode())


def test_a_length_stays_whatever_connection_says() -> None:
    asked = read_head(
        head("POST http://a.example/ HTTP/1.1", "Connection: Content-Length", "Content-Length: 3")
    )
    assert asked.head is not None
    assert b"Content-Length: 3\r\n" in asked.head


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1",),
        ("GET https://a.example/ HTTP/1.1",),
        ("GET http://u@a.example/ HTTP/1.1",),
        ("GET http:///x HTTP/1.1",),
        ("GET http://a.example/ HTTP/2.0",),
        ("GET  http://a.example/ HTTP/1.1",),
        ("GET http://a.example/ HTTP/1.1 ",),
        ("GET http://a.example/\tx HTTP/1.1",),
        ("CONNECT a.example HTTP/1.1",),
        ("CONNECT 0x7f.1:80 HTTP/1.1",),
        ("CONNECT a.example:0 HTTP/1.1",),
        ("GET http://a.example/ HTTP/1.1", "X : 1"),
        ("GET http://a.example/ HTTP/1.1", " folded"),
        ("GET http://a.example/ HTTP/1.1", "X: a\nY: b"),
        ("GET http://a.example/ HTTP/1.1", "X: a\rb"),
        ("GET http://a.example/ HTTP/1.1", "X: \0"),
        ("GET http://a.example/ HTTP/1.1", "Content-Length: 1", "content-length: 1"),
        ("GET http://a.example/ HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"),
        (),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(GatewayError) as refused:
        read_head(head(*lines))
    assert refused.value.code is ErrorCode.INVALID_REQUEST

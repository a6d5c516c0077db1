"""Fuzzes HTTP/1.1: whatever a client sends is requests or a refusal, however it is cut into pieces.

Options are libFuzzer's, such as `-max_total_time=60`.
"""

import sys

import atheris

with atheris.instrument_imports(include=["supervisor.front"]):
    from protocol import limits
    from tests.supervisor.front.test_intake import LAST, VALID, outcomes

from tests.fuzz._corpus import plant

# A request is these, picked by byte, or (first byte 0) bytes as they are.
TOKENS = [
    *(b"GET ", b"POST ", b"/", b"/rpc", b"/healthz", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n"),
    *(b"\r", b" ", b"\t", b":", b";", b",", b"\0", b"\xff", b"Host: localhost\r\n", b"Host:\r\n"),
    *(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: ", b"chunked"),
    *(b"identity", b"2", b"10", b"0", b"a", b"99999999999999999999", b"+1", b"-1", b"0x1"),
    *(b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n"),
    *(
        b"Upgrade: websocket\r\n",
        b"Content-Type: application/json\r\n",
        b"X: y\r\n",
        b" folded\r\n",
    ),
    *(b"Origin: https://app.example\r\n", b"X-Forwarded-For: 10.0.0.1\r\n", b"a" * 70, b"{}"),
    *(b"2\r\n{}\r\n0\r\n\r\n", b"X-Trailer: 1\r\n", b"\r\n\r\n", *VALID, *LAST),
]


def judged(sent: bytes, cuts: list[int]) -> list[tuple[object, ...]]:
    """Give what became of it; of two faults it is chance which of them is heard of first."""
    return [
        ("refused",) if refusal and not keep_alive else (path, body, keep_alive, refusal, tenant)
        for path, body, keep_alive, refusal, tenant in outcomes(sent, cuts)
    ]


def test_one_input(data: bytes) -> None:
    """First byte: whether the rest is what is sent, or picks its tokens; second: where to cut."""
    sent = data[2:]
    if data[:1] != b"\0":
        sent = b"".join(TOKENS[pick % len(TOKENS)] for pick in sent[:40])
    step = max(1, data[1] if len(data) > 1 else 1)
    whole = outcomes(sent, [])
    assert judged(sent, list(range(0, len(sent), step))) == judged(sent, [])
    for path, body, keep_alive, refusal, tenant in whole[:-1]:
        # After what was refused for its form nothing more is taken from this client.
        assert keep_alive, (path, refusal)
        assert len(body) <= limits.HTTP_BODY_BYTES_MAX
        assert tenant in (None, "acme")


def seeds() -> list[bytes]:
    """What the tests send, whole and by its tokens."""
    return [b"\0\x07" + data for data in (*VALID, *LAST)] + [
        bytes([1, 3, *range(start, start + 12)]) for start in range(0, len(TOKENS), 6)
    ]


if __name__ == "__main__":
    plant(sys.argv, seeds())
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()

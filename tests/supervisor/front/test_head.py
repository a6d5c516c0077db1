import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.front.head import Head, bearer_secret, host_name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"localhost", "localhost"),
        (b"LOCALHOST:18789", "localhost"),
        (b"127.0.0.1:80", "127.0.0.1"),
        (b"[::1]", "::1"),
        (b"[::1]:18789", "::1"),
        (b"", None),
        (b"a b", None),
        (b"a:b", None),
        (b"a:123456", None),
        (b"user@localhost", None),
        (b"localhost/", None),
        (b"localhost\xff", None),
        (b"[::1", None),
    ],
)
def test_host_names(value: bytes, name: str | None) -> None:
    assert host_name(value) == name


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        (b"Bearer abc", "abc"),
        (b"bEaReR   abc", "abc"),
        (None, ""),
        (b"", ""),
        (b"Bearer", ""),
        (b"Bearer ", ""),
        (b"Bearer a b", ""),
        (b"Bearer a\xff", ""),
        (b"Basic abc", ""),
        (b"Bearer " + b"a" * limits.BEARER_CHARS_MAX, "a" * limits.BEARER_CHARS_MAX),
        (b"Bearer " + b"a" * (limits.BEARER_CHARS_MAX + 1), ""),
    ],
)
def test_bearer_secrets(value: bytes | None, secret: str) -> None:
    assert bearer_secret(value) == secret


@pytest.mark.parametrize(
    "target",
    [
        b"/rpc?token=tk_acme_00",
        b"/v1/tenants/tk_acme_00",
        b"/x?%74k_acme",
        b"/x?t%6B_acme",
        b"/x?TK%5facme",
        b"/x?%3d%74%6b%5facme",
        b"/v1/status?key=ak_00",
        b"/v1/tenants?cursor=%61%4B_00",
        b"http://localhost/rpc",
        b"*",
        b"/rpc#fragment",
    ],
)
def test_targets_that_are_refused(target: bytes) -> None:
    head = Head()
    head.add_target(target)
    with pytest.raises(GatewayError) as refused:
        head.check_target()
    assert refused.value.code is ErrorCode.MALFORMED_REQUEST
    assert "acme" not in refused.value.message


def test_trailers_are_counted_and_dropped() -> None:
    head = Head()
    head.add_field(b"Host", b"localhost")
    head.finish("1.1")
    head.add_field(b"Authorization", b"Bearer x")
    assert b"authorization" not in head.fields
    for _ in range(limits.HTTP_HEADER_COUNT_MAX - 2):
        head.add_field(b"x", b"y")
    with pytest.raises(GatewayError) as refused:
        head.add_field(b"x", b"y")
    assert refused.value.code is ErrorCode.HEADERS_TOO_LARGE


@pytest.mark.parametrize(
    ("value", "ok"),
    [(b"k-1", True), (b"a" * 200, True), (b"a" * 201, False), (b"", False), (b"a b", False)],
)
def test_idempotency_keys(value: bytes, ok: bool) -> None:
    head = Head()
    head.add_field(b"Idempotency-Key", value)
    if ok:
        assert head.idempotency_key == value.decode()
    else:
        with pytest.raises(GatewayError) as refused:
            _ = head.idempotency_key
        assert refused.value.details["field"] == "Idempotency-Key"

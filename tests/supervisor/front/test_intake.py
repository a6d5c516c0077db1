"""Bytes to requests, without sockets: however the bytes are cut, the outcome is one."""

import gc
import itertools
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.aio import OnReply
from protocol.errors import ErrorCode
from protocol.meters import FrontMeters
from supervisor.front.auth import Grant, TokenTable
from supervisor.front.exchange import Request
from supervisor.front.gate import Counts
from supervisor.front.intake import Intake
from supervisor.front.log import Log
from supervisor.front.routes import Routes
from supervisor.front.sockets import Sockets
from supervisor.front.supervised import Supervised
from supervisor.front.tenants import Tenant
from supervisor.front.turns import Turns
from tests.supervisor.front.harness import ACME, access, request, rpc


class Surroundings:
    """What an intake and a tenant find around them in the process."""

    def __init__(self) -> None:
        self.tokens = TokenTable()
        self.version = "1.2.3"
        self.routes = Routes(self)
        self.hosts = frozenset({"localhost"})
        self.origins = frozenset({"https://app.example"})
        self.turns = Turns()
        self.counts = Counts(lambda _counts: None)
        self.sockets = Sockets(1, lambda _address: None)
        self.log = Log()
        self.draining = False
        self.loaded = True
        self.condition = "ready"
        self.notices: tuple[str, ...] = ()
        self.bytes_in_flight = 0
        self.control_calls = 0
        self.clock = 1000.0
        self.meters = FrontMeters()
        self.supervised = Supervised(frozenset(), self.ask_supervisor, self.now)
        self.acme = Tenant("acme", self)
        self.tokens.put(self.acme, access("acme", ACME))

    def now(self) -> float:
        return self.clock

    def ask_supervisor(self, method: str, params: bytes, on_reply: OnReply) -> None:
        raise AssertionError(method)

    def holding(self, tenant: Tenant, *, holds: bool) -> None:
        raise AssertionError(tenant.name)

    def note_attached(self, grant: Grant, terminal_id: str, address: str) -> None:
        raise AssertionError(grant, terminal_id, address)


def feed(intake: Intake, data: bytes) -> None:
    """Feed all of it, as a connection does."""
    while data and not intake.closed:
        data = data[intake.feed(data) :]


def _outcome(wanted: Request) -> Any:
    refusal = wanted.refusal
    return (
        wanted.asked.path,
        wanted.body,
        wanted.keep_alive,
        None if refusal is None else (refusal.code, refusal.message),
        None if wanted.asked.grant is None else wanted.asked.grant.tenant.name,
    )


def outcomes(data: bytes, cuts: list[int]) -> list[Any]:
    around = Surroundings()
    intake = Intake(around)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in itertools.pairwise(edges):
        feed(intake, data[start:end])
    outcomes = [_outcome(wanted) for wanted in intake.ready]
    intake.drop()
    assert around.bytes_in_flight == 0
    return outcomes


def _chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    head = request("/rpc", None, "Content-Type: application/json", "Transfer-Encoding: chunked")
    head = head.replace(b"GET", b"POST")
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + b"0\r\n" + trailers + b"\r\n"


VALID = [
    request("/healthz", token=None),
    rpc("health"),
    rpc("sessions.list", "an id", limit=5),
    _chunked(b'{"jsonrpc":', b'"2.0"', b"}"),
    _chunked(b"{}", trailers=b"Authorization: Bearer nobody\r\nX-Sum: 1\r\n"),
    request("/nowhere", b"{}"),
    request("/rpc", b"{}", token="tk_acme_" + "0" * 32),
    request("/rpc", b"{}", host="evil.example"),
    request("/rpc", b"\xff\x00" * 300),
    request("/rpc", None, verb="DELETE"),
    request("/channels/webhook/shop", b'{"user":{}}', "Idempotency-Key: k1"),
]
LAST = [
    request("/healthz", None, "Connection: close"),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"nonsense\r\n\r\n",
    request("/rpc", b"{}", "Transfer-Encoding: chunked"),
    request("/healthz", None, "Connection: Upgrade", "Upgrade: websocket"),
    request("/rpc", None, "Content-Type: application/json", "Content-Length: 99999999"),
    request("/healthz", None, "Host: localhost"),
    request("/healthz?tk_acme_00", None),
]


@given(
    st.lists(st.sampled_from(VALID), max_size=6),
    st.sampled_from([b"", *LAST]),
    st.lists(st.integers(0, 10_000), max_size=40),
)
def test_the_cutting_of_the_bytes_changes_nothing(
    parts: list[bytes], last: bytes, cuts: list[int]
) -> None:
    data = b"".join(parts * 2) + last
    whole = outcomes(data, [])
    assert outcomes(data, cuts) == whole
    assert len(whole) == len(parts * 2) + bool(last)


@pytest.mark.parametrize("data", VALID + LAST)
def test_byte_by_byte(data: bytes) -> None:
    assert outcomes(data, list(range(len(data)))) == outcomes(data, [])


@given(
    st.sampled_from(VALID + LAST),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=4),
    st.binary(max_size=200),
    st.lists(st.integers(0, 5_000), max_size=10),
)
def test_whatever_comes_is_a_request_or_a_refusal(
    data: bytes, edits: list[tuple[int, bytes]], tail: bytes, cuts: list[int]
) -> None:
    for position, replacement in edits:
        at = position % len(data)
        data = data[:at] + replacement + data[at + len(replacement) :]
    for *_, keep_alive, refusal, tenant in outcomes(data + tail, cuts):
        assert keep_alive or refusal is not None or b"close" in data or b"HTTP/1.0" in data
        assert tenant is None or ACME.encode() in data


def test_the_next_request_does_not_inherit_anything() -> None:
    around = Surroundings()
    intake = Intake(around)
    feed(intake, VALID[4] + request("/rpc", b"{}", token=None))
    first, second = intake.ready
    assert first.asked.grant is not None
    assert second.refusal is not None
    assert second.refusal.code is ErrorCode.UNAUTHORIZED


def test_what_was_found_good_is_judged_again_after_a_revocation() -> None:
    around = Surroundings()
    intake = Intake(around)
    feed(intake, rpc())
    feed(intake, rpc())
    assert [wanted.refusal for wanted in intake.ready] == [None, None]
    assert intake.ready[0].asked is intake.ready[1].asked
    around.tokens.put(around.acme, access("acme"))
    feed(intake, rpc())
    assert intake.ready[2].refusal is not None
    assert intake.ready[2].refusal.code is ErrorCode.UNAUTHORIZED


def test_a_head_is_known_again_whatever_the_length_of_its_body() -> None:
    intake = Intake(Surroundings())
    sent = [rpc("echo", number, text="x" * number) for number in (1, 200, 3, 90_000)]
    for data in sent:
        feed(intake, data)
    feed(intake, b"".join(sent))
    assert [wanted.body for wanted in intake.ready] == [
        data.partition(b"\r\n\r\n")[2] for data in sent * 2
    ]
    assert len({id(wanted.asked) for wanted in intake.ready}) == 1
    assert all(wanted.keep_alive and wanted.refusal is None for wanted in intake.ready)


def test_what_is_known_is_the_head_that_was_judged_and_no_other_of_the_same_bytes() -> None:
    bad = request("/rpc", b"{}", token="tk_acme_" + "0" * 32)
    for first, second in ((bad, rpc()), (b"\r\n\r\n" + rpc(), bad), (VALID[0] + bad, rpc())):
        intake = Intake(Surroundings())
        for data in (first + second, bad, rpc(), bad):
            feed(intake, data)
        served = [wanted.refusal is None for wanted in intake.ready]
        assert served[-3:] == [False, True, False]
        for wanted in intake.ready:
            assert (wanted.refusal is None) == (wanted.body != b"" or wanted.asked.path != "/rpc")


def test_a_known_head_is_refused_when_its_body_finds_no_room() -> None:
    around = Surroundings()
    intake = Intake(around)
    feed(intake, rpc())
    around.acme.charge(limits.TENANT_BYTES_IN_FLIGHT_MAX)
    feed(intake, rpc())
    assert intake.ready[1].refusal is not None
    assert intake.ready[1].refusal.code is ErrorCode.RATE_LIMITED
    assert not intake.closed
    feed(intake, rpc("echo", text="x" * 80_000))
    assert intake.ready[2].refusal is not None
    assert intake.closed


def _endless(data: bytes, piece: bytes) -> Request:
    around = Surroundings()
    intake = Intake(around)
    feed(intake, data)
    fed = 0
    while not intake.closed:
        feed(intake, piece)
        fed += len(piece)
        assert fed < 4 * limits.HTTP_HEADER_BYTES_MAX
    return intake.ready[-1]


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"\r\n", b"\r\n" * 50),
        (b"GET /", b"a" * 100),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 100),
        (b"GET / HTTP/1.1\r\n", b"a" * 100),
        (b"GET / HTTP/1.1\r\nX:", b" " * 100),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 10),
        (_chunked(b"{}").removesuffix(b"\r\n"), b"X: y\r\n" * 10),
        (_chunked(b"{}").removesuffix(b"\r\n") + b"X: ", b"a" * 100),
        (_chunked(b"{}").removesuffix(b"0\r\n\r\n") + b"2;", b"a" * 100),
    ],
)
def test_nothing_is_collected_without_end(start: bytes, piece: bytes) -> None:
    refused = _endless(start, piece).refusal
    assert refused is not None
    assert refused.code in (
        ErrorCode.HEADERS_TOO_LARGE,
        ErrorCode.TARGET_TOO_LONG,
        ErrorCode.MALFORMED_REQUEST,
    )


def test_a_body_is_reserved_before_it_is_read_and_bounded() -> None:
    around = Surroundings()
    size = limits.HTTP_BODY_BYTES_MAX
    head = request("/rpc", None, "Content-Type: application/json", f"Content-Length: {size}")
    head = head.replace(b"GET", b"POST")
    intakes = [Intake(around) for _ in range(limits.TENANT_BYTES_IN_FLIGHT_MAX // size)]
    for intake in intakes:
        feed(intake, head)
        assert not intake.ready
    assert around.bytes_in_flight == size * len(intakes)
    one_more = Intake(around)
    feed(one_more, head)
    assert one_more.ready[0].refusal is not None
    assert one_more.ready[0].refusal.code is ErrorCode.RATE_LIMITED
    for intake in intakes:
        intake.drop()
    assert around.bytes_in_flight == 0


def test_a_chunked_body_is_reserved_as_it_comes() -> None:
    around = Surroundings()
    intake = Intake(around)
    data = _chunked(b"x" * 1000, b"y" * 500)
    feed(intake, data[:-7])
    assert around.bytes_in_flight == 1500
    feed(intake, data[-7:])
    (wanted,) = intake.ready
    assert wanted.body == b"x" * 1000 + b"y" * 500
    wanted.release()
    assert around.bytes_in_flight == 0


@pytest.mark.parametrize("data", VALID + LAST)
def test_of_a_client_that_has_gone_nothing_is_left_to_the_collector(data: bytes) -> None:
    around = Surroundings()
    collects = gc.isenabled()
    gc.disable()
    try:
        intake = Intake(around)
        feed(intake, data)
        refusals = [weakref.ref(each.refusal) for each in intake.ready if each.refusal is not None]
        intake.drop()
        gone = weakref.ref(intake)
        del intake
        assert gone() is None
        assert [refusal() for refusal in refusals] == [None] * len(refusals)
    finally:
        if collects:
            gc.enable()


def test_an_unauthorized_body_is_not_kept() -> None:
    around = Surroundings()
    intake = Intake(around)
    feed(intake, request("/rpc", b"x" * 50_000, token=None))
    (wanted,) = intake.ready
    assert wanted.body == b""
    assert wanted.keep_alive
    feed(intake, request("/rpc", b"", token=None))
    feed(intake, request("/rpc", b"x" * 70_000, token=None)[:300])
    assert intake.closed
    assert not intake.ready[-1].keep_alive

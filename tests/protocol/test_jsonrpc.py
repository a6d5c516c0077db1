"""The JSON-RPC envelope: what is taken, what is refused and how, and what is answered."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import jsonrpc, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.jsonrpc import RequestId
from protocol.pieces import Pieces

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)
request_ids: st.SearchStrategy[RequestId] = (
    st.none() | st.integers() | st.text(max_size=limits.RPC_ID_CHARS_MAX)
)
methods = st.text(min_size=1, max_size=limits.METHOD_NAME_CHARS_MAX)


def request(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": "health", **members}).encode()


def cut(body: bytes) -> tuple[jsonrpc.Request, bytes]:
    """Read a request as one that is too big to be looked into."""
    middle = len(body) // 2
    pieces = Pieces(body[:middle])
    pieces.add(body[middle:])
    rest, params = jsonrpc.cut(pieces)
    return jsonrpc.decode_request(rest), bytes(params)


def refused(body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        jsonrpc.decode_request(body)
    return caught.value


def outcome(body: bytes) -> ErrorCode | None:
    """How a body is refused, or None when it is taken."""
    try:
        jsonrpc.decode_request(body)
    except GatewayError as error:
        return error.code
    return None


# --- what is taken


@given(methods, json_values, request_ids, st.sampled_from((None, 1)), st.booleans())
@example("m", {"params": [{"id": 2}, ',"id":3}']}, 'a"}', 1, False)
@example("m", ',"id":"x"', "y,", None, False)
def test_a_big_request_is_the_same_without_its_params_being_read(
    method: str, params: Any, request_id: RequestId, indent: int | None, last: bool
) -> None:
    head = {"jsonrpc": "2.0", "method": method}
    rest = {"id": request_id, "params": params}
    if not last:
        rest = {"params": params, "id": request_id}
    body = json.dumps({**head, **rest}, ensure_ascii=False, indent=indent).encode()
    read = jsonrpc.decode_request(body)
    call, cut_out = cut(body)
    assert (call.method, call.id, call.jsonrpc) == (read.method, read.id, read.jsonrpc)
    assert json.loads(cut_out) == params


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"jsonrpc":"2.0","method":"m","id":1,"params":[%b]', ErrorCode.PARSE_ERROR),
        (b'[{"jsonrpc":"2.0","method":"m","id":1,"params":[%b]}]', ErrorCode.PARSE_ERROR),
        (b'{"x":[%b],"jsonrpc":"2.0","method":"m","id":1}', ErrorCode.MALFORMED_REQUEST),
        (b'{"jsonrpc":"2.0","id":{"params":0},"method":"m","x":[%b]}', ErrorCode.MALFORMED_REQUEST),
        (b'{"jsonrpc":"2.0","method":1,"id":1,"params":[%b]}', ErrorCode.MALFORMED_REQUEST),
        (b'{"method":"m","params":[%b],"jsonrpc":"1.0"}', ErrorCode.MALFORMED_REQUEST),
    ],
)
def test_a_big_request_that_is_none(body: bytes, code: ErrorCode) -> None:
    with pytest.raises(GatewayError) as caught:
        cut(body % (b"1," * limits.RPC_SCANNED_BYTES_MAX + b"1"))
    assert caught.value.code is code
    assert len(caught.value.message) < 200


def test_no_json_in_the_params_of_a_big_request_is_left_to_who_reads_them() -> None:
    for params in (b"[" + b"1," * limits.RPC_SCANNED_BYTES_MAX, b'1,"params":[' + b"1," * 200_000):
        _, cut_out = cut(b'{"jsonrpc":"2.0","method":"m","params":%b}' % params)
        assert cut_out == params
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(cut_out)


def test_a_batch_has_a_bound_in_bytes() -> None:
    blanks = b" " * (limits.BATCH_BYTES_MAX - 3)
    assert jsonrpc.decode_batch(b"[1%b]" % blanks) == [b"1"]
    error = batch_refusal(b"[1%b ]" % blanks)
    assert (error.code, error.details["limit"]) == (
        ErrorCode.PAYLOAD_TOO_LARGE,
        limits.BATCH_BYTES_MAX,
    )


@given(methods, json_values, request_ids, st.booleans())
def test_requests_come_back(method: str, params: Any, request_id: RequestId, ascii_: bool) -> None:
    members = {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}
    body = json.dumps(members, ensure_ascii=ascii_, indent=None if ascii_ else 1).encode()
    call = jsonrpc.decode_request(body)
    assert (call.method, call.id) == (method, request_id)
    assert type(call.id) is type(request_id)
    assert json.loads(bytes(call.params)) == params


def test_without_an_id_it_is_a_notification() -> None:
    assert jsonrpc.decode_request(request()).id is msgspec.UNSET
    assert jsonrpc.decode_request(request(id=None)).id is None


def test_params_left_out_are_empty() -> None:
    assert bytes(jsonrpc.decode_request(request()).params) == b"{}"


@pytest.mark.parametrize(
    "params",
    [b"[1,2]", b"null", b"3", b'"x"', b"1e999", b'{ "a" :\t1 }', b'{"a":1,"a":2}', b'"\xff\xfe"'],
)
def test_params_stay_as_they_were_written(params: bytes) -> None:
    """Whether they are right, and UTF-8, is for whoever decodes them."""
    body = b'{"jsonrpc":"2.0","method":"m","params":%b}' % params
    assert bytes(jsonrpc.decode_request(body).params) == params


def test_of_duplicate_members_the_last_wins() -> None:
    rest = b'"method":"a","id":1,"params":1,"method":"b","id":"2","params":2}'
    call = jsonrpc.decode_request(b'{"jsonrpc":"2.0",' + rest)
    assert (call.method, call.id, bytes(call.params)) == ("b", "2", b"2")
    # Those that lose are checked as well.
    assert outcome(b'{"jsonrpc":"1","jsonrpc":"2.0",' + rest) is ErrorCode.MALFORMED_REQUEST


@pytest.mark.parametrize("digits", [16, 20, 300, 4299])
def test_huge_integer_ids_come_back_to_the_digit(digits: int) -> None:
    call = jsonrpc.decode_request(b'{"jsonrpc":"2.0","method":"m","id":-%b}' % (b"9" * digits))
    assert isinstance(call.id, int)
    assert b'"id":-%b,' % (b"9" * digits) in jsonrpc.success(call.id, b"1")


def test_what_is_at_its_bound() -> None:
    call = jsonrpc.decode_request(
        request(method="é" * limits.METHOD_NAME_CHARS_MAX, id="é" * limits.RPC_ID_CHARS_MAX)
    )
    assert len(call.method) == limits.METHOD_NAME_CHARS_MAX
    assert call.id == "é" * limits.RPC_ID_CHARS_MAX


# --- what is refused


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"nonsense", b'{"jsonrpc":"2.0",}', b"\x00", b"\xff\xfe{\x00}\x00"),
        b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}',
        b'{"jsonrpc":"2.0","method":"m"}{}',
        b'{"jsonrpc":"2.0","method":"m"}\x00',
        b'{"jsonrpc":"2.0","method":"m\x00"}',
        b'{"jsonrpc":"2.0","method":"m\n"}',
        b'{"jsonrpc":"2.0","method":"\xff"}',
        b'{"jsonrpc":"2.0","method":"m","id":"\xed\xa0\x80"}',
        b'{"jsonrpc":"2.0","method":"m","id":"\\ud800"}',
        b'{"jsonrpc":"2.0","method":"m","\xff":1}',
        b'{"jsonrpc":"2.0","method":"m","params":\xff}',
        b'{"jsonrpc":"2.0","method":"m","params":NaN}',
        b'{"jsonrpc":"2.0","method":"m","params":01}',
        b'{"jsonrpc":"2.0","method":"m","params":"\x01"}',
        b"{'jsonrpc':'2.0','method':'m'}",
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    error = refused(body)
    assert error.code is ErrorCode.PARSE_ERROR
    assert error.message.startswith("the body is no JSON: ")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"params":[', b'[{"jsonrpc":'])
@pytest.mark.parametrize("place", [b"%b", b'{"jsonrpc":"2.0","method":"m","params":%b'])
def test_what_is_nested_too_deeply(opening: bytes, place: bytes) -> None:
    error = refused(place % (opening * 100_000))
    assert error.code in (ErrorCode.PARSE_ERROR, ErrorCode.MALFORMED_REQUEST)


def test_nesting_that_closes_again_is_too_deep_all_the_same() -> None:
    error = refused(
        b'{"jsonrpc":"2.0","method":"m","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    )
    assert (error.code, error.message) == (ErrorCode.PARSE_ERROR, "the body is nested too deeply")


WRONG: list[tuple[str, Any, str]] = [
    ("jsonrpc", "1.0", "$.jsonrpc"),
    ("jsonrpc", 2.0, "$.jsonrpc"),
    ("jsonrpc", None, "$.jsonrpc"),
    ("method", "", "$.method"),
    ("method", "m" * 65, "$.method"),
    ("method", 1, "$.method"),
    ("method", None, "$.method"),
    ("method", ["m"], "$.method"),
    ("id", 1.5, "$.id"),
    ("id", 1.0, "$.id"),
    ("id", True, "$.id"),
    ("id", [1], "$.id"),
    ("id", {"a": 1}, "$.id"),
    ("id", "x" * 257, "$.id"),
    ("extra", 1, "extra"),
    ("Method", "m", "Method"),
    ("tenant", "acme", "tenant"),
]


@pytest.mark.parametrize(("member", "value", "named"), WRONG)
def test_a_wrong_member_is_named(member: str, value: Any, named: str) -> None:
    error = refused(request(**{member: value}))
    assert error.code is ErrorCode.MALFORMED_REQUEST
    assert named in error.message


def test_an_integer_that_nobody_means_is_refused() -> None:
    error = refused(request(id=7).replace(b"7", b"9" * 4301))
    assert error.code is ErrorCode.MALFORMED_REQUEST
    assert "$.id" in error.message


@pytest.mark.parametrize("member", ["jsonrpc", "method"])
def test_a_missing_member_is_named(member: str) -> None:
    members = {"jsonrpc": "2.0", "method": "m"}
    del members[member]
    error = refused(json.dumps(members).encode())
    assert error.code is ErrorCode.MALFORMED_REQUEST
    assert member in error.message


@pytest.mark.parametrize("body", [b"null", b"1", b'"x"', b"true"])
def test_what_is_no_object(body: bytes) -> None:
    assert refused(body).code is ErrorCode.MALFORMED_REQUEST


@pytest.mark.parametrize("body", [b"[]", b" \n[1]", b'[{"jsonrpc":"2.0","method":"m","id":1}]'])
def test_a_batch_is_no_single_request(body: bytes) -> None:
    assert jsonrpc.is_batch(body)
    assert refused(body).code is ErrorCode.MALFORMED_REQUEST


@pytest.mark.parametrize("body", [b"", b"{}", b'"["', b"\x0b[1]", b"\xc2\xa0[1]"])
def test_what_is_no_batch(body: bytes) -> None:
    assert not jsonrpc.is_batch(body)


def batch_refusal(body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        jsonrpc.decode_batch(body)
    return caught.value


def test_the_members_of_a_batch_are_not_looked_into() -> None:
    body = b' [ 1 , {"a" : [] },"x" ,null] '
    assert jsonrpc.decode_batch(body) == [b"1", b'{"a" : [] }', b'"x"', b"null"]


def test_the_bounds_of_a_batch() -> None:
    most = limits.BATCH_MEMBERS_MAX
    assert len(jsonrpc.decode_batch(b"[" + b"1," * (most - 1) + b"1]")) == most
    error = batch_refusal(b"[" + b"1," * most + b"1]")
    assert error.code is ErrorCode.MALFORMED_REQUEST
    assert str(most) in error.message
    assert batch_refusal(b"[ ]").code is ErrorCode.MALFORMED_REQUEST


@pytest.mark.parametrize("body", [b"[", b"[1,]", b"[1", b'[{"jsonrpc":"2.0","method"]', b"[1] 2"])
def test_a_batch_that_is_no_json(body: bytes) -> None:
    assert batch_refusal(body).code is ErrorCode.PARSE_ERROR


def test_only_a_streamable_request_knows_stream() -> None:
    body = b'{"jsonrpc":"2.0","method":"m","id":1,"stream":true}'
    assert jsonrpc.decode_streamable(body).stream
    assert refused(body).code is ErrorCode.MALFORMED_REQUEST


def test_a_refusal_does_not_give_back_a_megabyte() -> None:
    much = "A" * 1_000_000
    for member in ("jsonrpc", "method", "id", much):
        error = refused(request(**{member: much}))
        assert len(jsonrpc.refusal(None, error)) < 2000


@given(st.binary(max_size=200))
@example(b'{"jsonrpc":"2.0","method":"m","id":-0}')
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    assert outcome(body) in (None, ErrorCode.PARSE_ERROR, ErrorCode.MALFORMED_REQUEST)


@given(json_values, st.dictionaries(st.sampled_from(["jsonrpc", "method", "id", "x"]), json_values))
def test_any_json_is_a_request_or_a_refusal(value: Any, members: dict[str, Any]) -> None:
    for body in (json.dumps(value).encode(), request(**members)):
        assert outcome(body) in (None, ErrorCode.MALFORMED_REQUEST)


# --- what is answered


@given(request_ids, json_values)
@example('\x00\x1f\x7f\u2028"\\/', {})
@example(2**64, [])
@example(-(2**63) - 1, [])
def test_a_success_is_json_with_the_same_id(request_id: RequestId, result: Any) -> None:
    answer = json.loads(jsonrpc.success(request_id, json.dumps(result).encode()))
    assert answer == {"jsonrpc": "2.0", "id": request_id, "result": result}
    assert type(answer["id"]) is type(request_id)


@given(
    request_ids,
    st.sampled_from(ErrorCode),
    st.text(st.characters(), max_size=2000),
    st.dictionaries(st.text(max_size=8), json_values, max_size=4),
)
def test_a_refusal_is_json_with_the_same_id(
    request_id: RequestId, code: ErrorCode, message: str, details: dict[str, Any]
) -> None:
    error = GatewayError(code, message, **details)
    answer = json.loads(jsonrpc.refusal(request_id, error))
    assert answer.keys() == {"jsonrpc", "id", "error"}
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", request_id)
    assert answer["error"]["code"] == code.rpc_code
    assert answer["error"]["message"] == error.message
    assert answer["error"]["data"]["code"] == code.name
    kept = {key: value for key, value in details.items() if key not in ("code", "retryable")}
    assert kept.items() <= answer["error"]["data"].items()


@given(request_ids)
def test_an_id_read_is_the_id_answered(request_id: RequestId) -> None:
    call = jsonrpc.decode_request(request(id=request_id))
    assert isinstance(call.id, int | str | None)
    assert json.loads(jsonrpc.success(call.id, b"{}"))["id"] == request_id

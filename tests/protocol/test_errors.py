"""The error table and the shape that clients see."""

import http

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import (
    ErrorBody,
    ErrorCode,
    GatewayError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
)

# What clients rely on: string code, number, status. A change here breaks them.
TABLE = """
PARSE_ERROR            -32700 400
MALFORMED_REQUEST      -32600 400
METHOD_NOT_FOUND       -32601 404
INVALID_REQUEST        -32602 400
INTERNAL               -32603 500
UNAUTHORIZED           -32001 401
FORBIDDEN              -32003 403
NOT_FOUND              -32004 404
METHOD_NOT_ALLOWED     -32005 405
REQUEST_TIMEOUT        -32008 408
CONFLICT               -32009 409
PAYLOAD_TOO_LARGE      -32013 413
TARGET_TOO_LONG        -32014 414
UNSUPPORTED_MEDIA_TYPE -32015 415
RATE_LIMITED           -32029 429
QUOTA_EXCEEDED         -32030 429
HEADERS_TOO_LARGE      -32031 431
CANCELLED              -32040 499
UNAVAILABLE            -32050 503
TIMEOUT                -32054 504
"""
RETRYABLE = {"REQUEST_TIMEOUT", "RATE_LIMITED", "QUOTA_EXCEEDED", "UNAVAILABLE", "TIMEOUT"}
codes = pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)


def test_the_published_rows_stay() -> None:
    published = {
        name: (int(rpc), int(status))
        for name, rpc, status in map(str.split, TABLE.strip().splitlines())
    }
    actual = {code.name: (code.rpc_code, code.http_status) for code in ErrorCode}
    assert {name: actual.get(name) for name in published} == published


def test_numbers_are_told_apart_and_no_row_hides_another() -> None:
    assert len({code.rpc_code for code in ErrorCode}) == len(ErrorCode)
    assert list(ErrorCode.__members__) == [code.name for code in ErrorCode]


@codes
def test_a_row(code: ErrorCode) -> None:
    assert code.name == code.name.upper()
    assert len(code.name) <= limits.ERROR_CODE_CHARS_MAX
    assert code.rpc_code in range(-32099, -32000) or code.rpc_code in (
        -32700,
        *range(-32603, -32599),
    )
    assert code.http_status == 499 or http.HTTPStatus(code.http_status) >= 400
    assert code.retryable == (code.name in RETRYABLE)


@codes
def test_the_body_a_client_sees(code: ErrorCode) -> None:
    error = GatewayError(code, "Say why.", field="params.key")
    retryable = {"retryable": True} if code.retryable else {}
    assert error.body() == ErrorBody(
        code.rpc_code, "Say why.", {"code": code.name, "field": "params.key", **retryable}
    )
    assert next(iter(error.body().data)) == "code"
    assert (error.code, error.message, str(error)) == (code, "Say why.", "Say why.")
    assert error.details == {"field": "params.key"}


@pytest.mark.parametrize("name", ["self", "code", "message", "retryable", "details"])
def test_details_never_take_the_place_of_the_code(name: str) -> None:
    error = GatewayError(ErrorCode.TIMEOUT, "x", **{name: "forged"})
    data = error.body().data
    assert data["code"] == "TIMEOUT"
    assert data["retryable"] is True
    assert error.body().message == "x"
    assert data[name] == "forged" or name in ("code", "retryable")


@given(st.text(st.characters(), max_size=3000))
def test_any_sentence_can_be_sent(message: str) -> None:
    error = GatewayError(ErrorCode.INTERNAL, message)
    assert len(error.message) <= limits.ERROR_MESSAGE_CHARS_MAX
    assert msgspec.json.decode(msgspec.json.encode(error.body()))["message"] == error.message


@pytest.mark.parametrize("message", ["\ud800" * 5000, "x\udcff", "é" * 1024, "x" * 1025])
def test_a_sentence_is_cut_and_lone_surrogates_are_escaped(message: str) -> None:
    sent = GatewayError(ErrorCode.INTERNAL, message).message
    assert sent == message.encode("utf-8", "backslashreplace").decode()[:1024]


def test_a_protocol_error_says_whose_fault_it_is() -> None:
    with pytest.raises(TypeError):
        ProtocolError("whose?")
    for kind in (LocalProtocolError, RemoteProtocolError):
        assert isinstance(kind("why"), ProtocolError)
        assert str(kind("why")) == "why"

"""Fuzzes the JSON-RPC envelope: any body is a request or a typed refusal, any answer is JSON.

Options are libFuzzer's, such as `-max_total_time=60`.
"""

import json
import sys

import atheris
import msgspec

with atheris.instrument_imports(include=["protocol"]):
    from protocol import frames, jsonrpc, limits
    from protocol.aio import failure_error
    from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError

from tests.fuzz._corpus import plant

ANSWER_BYTES_MAX = 10_000
DIGITS_MAX = 4300  # of an integer that the standard library reads

# A body is these, picked by byte, or (first byte 0) bytes as they are.
TOKENS = [
    *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\t", b"\0", b"\xff", b"\xed\xa0\x80"),
    *(b'"jsonrpc":"2.0"', b'"method":"health"', b'"params":', b'"id":', b'"method":', b'"x":'),
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\xc3\xa9", b"a" * 65, b"a" * 257),
    *(b"null", b"true", b"0", b"-0", b"1", b"1.0", b"1e400", b"9" * 20, b"9" * 4301, b"NaN"),
    *(b'{"jsonrpc":"2.0","method":"health","params":{},"id":1}', b"[" * 1100, b'{"a":' * 1100),
]


def read_back(answer: bytes, request_id: jsonrpc.RequestId) -> None:
    """What is answered is JSON, with the id that was asked."""
    value = json.loads(answer)
    assert value["jsonrpc"] == "2.0"
    assert value["id"] == request_id
    assert type(value["id"]) is type(request_id)


def decode(body: bytes) -> jsonrpc.Request | GatewayError:
    """Read a client's body as the front does."""
    try:
        return jsonrpc.decode_request(body)
    except GatewayError as error:
        return error


def check_batch(body: bytes) -> None:
    """Take a client's body as a batch: each member is JSON by itself."""
    try:
        members = jsonrpc.decode_batch(body)
    except GatewayError:
        return
    assert 0 < len(members) <= limits.BATCH_MEMBERS_MAX
    for member in members:
        decode(member)


def check_body(body: bytes) -> None:
    """Take a client's body."""
    if jsonrpc.is_batch(body):
        check_batch(body)
    call = decode(body)
    if isinstance(call, GatewayError):
        assert call.code in (ErrorCode.PARSE_ERROR, ErrorCode.MALFORMED_REQUEST)
        answer = jsonrpc.refusal(None, call)
        assert len(answer) < ANSWER_BYTES_MAX
        read_back(answer, None)
        return
    request_id = None if isinstance(call.id, msgspec.UnsetType) else call.id
    read_back(jsonrpc.success(request_id, b'{"ok":true}'), request_id)
    read_back(jsonrpc.refusal(request_id, GatewayError(ErrorCode.TIMEOUT, call.method)), request_id)
    try:
        other = json.loads(body)
    except (UnicodeDecodeError, RecursionError):
        return  # strings and depth of params are for whoever decodes them
    except ValueError:
        # Nothing else that the one reads is no JSON to the other.
        assert len(body) > DIGITS_MAX
        return
    assert other["method"] == call.method
    assert other.get("id") == request_id


def check_failure(details: bytes) -> None:
    """Take a peer's refusal."""
    try:
        error = failure_error(frames.Failure(1, "CONFLICT", "no", details))
    except RemoteProtocolError:
        return
    data = json.loads(jsonrpc.refusal(1, error))["error"]["data"]
    assert data["code"] == "CONFLICT"


def test_one_input(data: bytes) -> None:
    """First byte: whether the rest is a body, or picks the tokens of one."""
    body = data[1:]
    if data[:1] != b"\0":
        body = b"".join(TOKENS[pick % len(TOKENS)] for pick in body[:64])
    check_body(body)
    check_failure(body)


def seeds() -> list[bytes]:
    """Requests that are right, and some that are nearly so."""
    return [
        b'\0{"jsonrpc":"2.0","method":"sessions.list","params":{"limit":10},"id":"a\\u00e9"}',
        b'\0{"jsonrpc":"2.0","method":"m","id":-12345678901234567890}',
        b'\0{"id":null,"params":[1,2.5,"x",null,true],"method":"m","jsonrpc":"2.0"}',
        b'\0[{"jsonrpc":"2.0","method":"m"}]',
        b'\0{"field":"key","self":1,"code":"X"}',
        bytes([1, 0, 12, 4, 13, 4, 14, 0, 1, 4, 15, 30, 1]),
        bytes([1, 0, 12, 4, 13, 4, 15, 33, 1]),
        bytes([1, 0, 12, 4, 13, 4, 14, 37, 1]),
    ]


if __name__ == "__main__":
    plant(sys.argv, seeds())
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()

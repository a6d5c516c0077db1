import email.utils
import json

import pytest

from protocol.errors import ErrorCode, GatewayError
from supervisor.front import response


def _headers(data: bytes) -> dict[str, str]:
    head = data.split(b"\r\n\r\n")[0].decode("ascii")
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:])


def test_every_code_of_the_table_can_be_answered() -> None:
    for code in ErrorCode:
        error = GatewayError(code, "why")
        data = response.whole(code.http_status, response.error_body(error), b"")
        assert data.startswith(b"HTTP/1.1 %d " % code.http_status)
        body = json.loads(data.split(b"\r\n\r\n")[1])
        assert body["error"]["data"]["code"] == code.name
        data = response.whole(
            code.http_status, response.problem_body(error), content=response.PROBLEM
        )
        assert _headers(data)["Content-Type"] == "application/problem+json"
        assert json.loads(data.split(b"\r\n\r\n")[1])["code"] == code.name


def test_common_headers() -> None:
    headers = _headers(response.whole(200, b"{}"))
    date = headers.pop("Date")
    assert email.utils.format_datetime(email.utils.parsedate_to_datetime(date), usegmt=True) == date
    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": "2",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def test_a_response_without_body() -> None:
    assert "Content-Length" not in _headers(response.whole(204, b""))
    assert _headers(response.whole(503, b""))["Content-Length"] == "0"
    assert response.whole(200, b"{}", only_head=True).endswith(b"Content-Length: 2\r\n\r\n")


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        (None, 1),
        (1, 1),
        (1000, 1),
        (1001, 2),
        (0, 1),
        (-5, 1),
        ("7", 1),
        (1e300, response.RETRY_SECONDS_MAX),
        (float("nan"), 1),
        (float("inf"), response.RETRY_SECONDS_MAX),
        (10**30, response.RETRY_SECONDS_MAX),
    ],
)
def test_retry_after_is_in_whole_seconds(milliseconds: object, seconds: int) -> None:
    error = GatewayError(ErrorCode.UNAVAILABLE, "why", retryAfterMs=milliseconds)
    assert response.error_headers(error) == b"Retry-After: %d\r\n" % seconds


def test_allow_takes_verbs_only() -> None:
    assert response.allow(["GET", "POST"]) == b"Allow: GET, POST\r\n"
    assert response.allow(["GET\r\nSet-Cookie: a=b", 5, "PUT"]) == b"Allow: PUT\r\n"
    assert response.allow("GET") == b""


def test_an_event_is_one_line_of_data() -> None:
    forged = b'{"a":\r\n1}\n\nevent: result\ndata: {}'
    assert response.event(b"chat", forged).count(b"\n") == 3


def test_headers_of_another_process_answer() -> None:
    refused = json.dumps({"allowed": ["GET"]}).encode()
    assert response.status_headers(405, refused) == b"Allow: GET\r\n"
    later = json.dumps({"retryAfterMs": 2500}).encode()
    assert response.status_headers(429, later) == b"Retry-After: 3\r\n"
    assert response.status_headers(503, b"no json") == b"Retry-After: 1\r\n"
    assert response.status_headers(418, b"{}") == b""
    assert response.status_headers(200, refused) == b""

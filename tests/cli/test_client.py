import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.client import RemoteTenants
from cli.exits import ExitCode, refuse
from protocol.control.shapes import CreateTenant, RotateToken, TenantLimits, UpdateTenant
from protocol.errors import ErrorCode, GatewayError
from protocol.quotas import Quota

KEY = "ak_0123456789abcdef"


class Asked(NamedTuple):
    verb: str
    path: str
    authorization: str
    body: Any


class Server(HTTPServer):
    """Answers everything alike, as a gateway would or as something else does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.status = 200
        self.answer = b"{}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(
            Asked(
                self.command,
                self.path,
                self.headers["Authorization"],
                json.loads(body) if body else None,
            )
        )
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are the library's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as above
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tenants(server: Server) -> RemoteTenants:
    return RemoteTenants(f"http://127.0.0.1:{server.server_port}", KEY, Path("/nonexistent"))


def test_it_asks_the_control_plane(server: Server, tenants: RemoteTenants) -> None:
    server.answer = b'{"tenants":[]}'
    assert tenants.everyone() == []
    tenants.create(CreateTenant(tenant_id="acme"))
    asked_quota = Quota(tokens_per_day=1, cost_per_day_micro_usd=2)
    tenants.create(
        CreateTenant(
            tenant_id="acme",
            display_name="Äcme",
            quota=asked_quota,
            limits=TenantLimits(pids=64),
        )
    )
    tenants.get("acme")
    tenants.update("acme", UpdateTenant(display_name=None))
    tenants.rotate("acme", RotateToken(overlap_seconds=5))
    tenants.delete("acme")
    quota = {"tokensPerDay": 1, "costPerDayMicroUsd": 2}
    assert server.asked == [
        Asked("GET", "/v1/tenants?limit=1000", f"Bearer {KEY}", None),
        Asked(
            "POST", "/v1/tenants", f"Bearer {KEY}", {"tenantId": "acme", "quota": {}, "limits": {}}
        ),
        Asked(
            *("POST", "/v1/tenants", f"Bearer {KEY}"),
            {"tenantId": "acme", "displayName": "Äcme", "quota": quota, "limits": {"pids": 64}},
        ),
        Asked("GET", "/v1/tenants/acme", f"Bearer {KEY}", None),
        Asked("PATCH", "/v1/tenants/acme", f"Bearer {KEY}", {"displayName": None}),
        Asked("POST", "/v1/tenants/acme/token/rotate", f"Bearer {KEY}", {"overlapSeconds": 5}),
        Asked("DELETE", "/v1/tenants/acme", f"Bearer {KEY}", None),
    ]


@pytest.mark.parametrize("tenant", ["../x", "a/b", "a?b", "a#b", "a b", "a\r\nX: y", "", "é"])
def test_an_id_stays_one_segment(server: Server, tenants: RemoteTenants, tenant: str) -> None:
    tenants.get(tenant)
    path = server.asked[0].path
    assert path.startswith("/v1/tenants/")
    assert path.count("/") == 3
    assert not set("?# \r\n") & set(path)


@pytest.mark.parametrize(
    "code",
    [
        *(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.UNAUTHORIZED),
        *(ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT),
    ],
)
def test_a_refusal_is_what_the_gateway_says(
    server: Server, tenants: RemoteTenants, code: ErrorCode
) -> None:
    server.status = code.http_status
    server.answer = json.dumps(GatewayError(code, "the reason").problem()).encode()
    with pytest.raises(GatewayError, match="the reason") as refused:
        tenants.get("acme")
    assert refused.value.code is code


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [(ErrorCode.CONFLICT, ExitCode.FAILED), (ErrorCode.UNAVAILABLE, ExitCode.TRY_LATER)],
)
def test_a_refusal_ends_the_command_by_whether_to_try_again(
    capsys: pytest.CaptureFixture[str], code: ErrorCode, exit_code: ExitCode
) -> None:
    with pytest.raises(SystemExit) as ended:
        refuse(GatewayError(code, "the reason"))
    assert ended.value.code == exit_code
    assert capsys.readouterr().err == "openclaw: the reason\n"


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("answer", [b"", b"<html>", b"\xff", b"[" * 5000])
def test_what_is_no_gateways_answer_is_said(
    server: Server, tenants: RemoteTenants, status: int, answer: bytes
) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(GatewayError, match="does not answer") as refused:
        tenants.get("acme")
    assert refused.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("answer", [b"{}", b"null", b'{"error":"Not found"}', b'{"title":1}'])
def test_a_refusal_of_another_shape_is_said(
    server: Server, tenants: RemoteTenants, answer: bytes
) -> None:
    server.status, server.answer = 404, answer
    with pytest.raises(GatewayError, match="does not answer") as refused:
        tenants.get("acme")
    assert refused.value.code is ErrorCode.UNAVAILABLE

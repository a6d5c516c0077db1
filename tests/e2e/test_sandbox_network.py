"""A sandbox that names a network reaches its hosts through egress, and nothing else."""

import hashlib
import http.server
import itertools
import json
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway
from tests.e2e.sandboxes import Run, wait_running

# Loopback, and no address that programs reach without their proxy (`no_proxy`).
HOST = "127.0.0.2"
_numbers = itertools.count(1)


def wheel() -> bytes:
    """A package that pip can install."""
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": "WORD = 'installed'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return buffer.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """A package index (PEP 503), and a page that is as long as it is asked for."""

    name = "tiny-1.0-py3-none-any.whl"
    body = wheel()
    asked: list[str] = []  # noqa: RUF012 - of the class, as a server makes one for each request

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == f"/{self.name}":
            self._say("application/zip", self.body)
        elif self.path == "/simple/tiny/":
            digest = hashlib.sha256(self.body).hexdigest()
            link = f'<a href="/{self.name}#sha256={digest}">{self.name}</a>'
            self._say("text/html", link.encode())
        elif self.path.startswith("/long/"):
            self._say("text/plain", b"x" * int(self.path.removeprefix("/long/")))
        else:
            self.send_error(404)

    def _say(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def index() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer((HOST, 0), Index)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def shared(index: int) -> Iterator[Gateway]:
    path = make_state_dir()
    (path / "config.yaml").write_text(
        json.dumps(
            {
                "egress": {"allow_hosts": [f"{HOST}:{index}"]},
                "sandbox": {
                    "network": {
                        "packages": [f"{HOST}:{index}"],
                        "internal": ["127.0.0.3:1", f"127.0.0.3:{index}"],
                    }
                },
            }
        )
    )
    try:
        with Gateway(path) as gateway:
            yield gateway
    finally:
        remove_tree(path)


@pytest.fixture
def token(shared: Gateway) -> str:
    return shared.create(f"tenant-{next(_numbers)}")


def python(gateway: Gateway, token: str, code: str, **given: Any) -> str:
    """What a program prints that runs in a sandbox."""
    given = {"network": "packages", **given}
    result = gateway.rpc(token, "sandbox.run", argv=["python3", "-c", code], **given)
    assert result["exitCode"] == 0, result
    printed: str = result["stdout"]
    return printed


def port_of(gateway: Gateway) -> int:
    """Where it listens."""
    return int(gateway.address.rpartition(":")[2])


def pip(gateway: Gateway, tenant: str) -> None:
    """Put pip, which a system may be without, where the tenant's sandbox finds it."""
    (found,) = Path(sys.prefix).glob("lib/python3*/site-packages/pip")
    inside = gateway.state_dir / "tenants" / tenant / "sandbox" / "main"
    owner = inside.stat()
    shutil.copytree(found, inside / "lib" / "pip")
    for path in (inside / "lib", *(inside / "lib").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def test_pip_installs_from_the_index_that_is_named(shared: Gateway, index: int) -> None:
    tenant = f"tenant-{next(_numbers)}"
    token = shared.create(tenant)
    shared.rpc(token, "sandbox.run", argv=["true"])
    pip(shared, tenant)
    arguments = [
        *("install", "--no-cache-dir", "--target", "/work/site", "--trusted-host", HOST),
        *("--index-url", f"http://{HOST}:{index}/simple", "tiny"),
    ]
    program = (
        "import sys; sys.path.insert(0, '/work/lib')\n"
        f"from pip._internal.cli.main import main; sys.exit(main({arguments}))"
    )
    argv = ["python3", "-c", program]
    result = shared.rpc(token, "sandbox.run", argv=argv, network="packages", timeoutMs=60_000)
    assert result["exitCode"] == 0, result
    code = "import sys; sys.path.insert(0, '/work/site'); import tiny; print(tiny.WORD)"
    assert python(shared, token, code) == "installed\n"


TRY = """
import socket, sys
def tried(host, port, family=socket.AF_INET):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect((host, port))
        return "reached"
    except OSError as error:
        return type(error).__name__
"""


def test_nothing_is_reached_without_the_proxy(shared: Gateway, token: str, index: int) -> None:
    port = port_of(shared)
    code = f"""{TRY}
found = [
    tried("{HOST}", {index}), tried("127.0.0.1", {port}), tried("169.254.169.254", 80),
    tried("10.0.0.1", 80), tried("1.1.1.1", 443), tried("::1", {port}, socket.AF_INET6),
]
try:
    socket.getaddrinfo("example.org", 80)
    found.append("resolved")
except OSError:
    pass
print("reached" in found, "resolved" in found, tried("127.0.0.1", 3128))
"""
    assert python(shared, token, code) == "False False reached\n"


ASK = """
import socket
def ask(head):
    with socket.create_connection(("127.0.0.1", 3128), 10) as sock:
        sock.settimeout(10)
        sock.sendall(head.encode("latin-1") + b"\\r\\n\\r\\n")
        told = b""
        while b"\\r\\n" not in told and (more := sock.recv(4096)):
            told += more
    return told.split(b"\\r\\n")[0].decode()
"""


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("{host}:{index}", "200"),
        ("127.0.0.2.:{index}", "502"),
        ("127.0.0.1:{port}", "403"),
        ("localhost:{port}", "403"),
        ("2130706434:{index}", "502"),
        ("0x7f.0.0.2:{index}", "502"),
        ("[::ffff:127.0.0.2]:{index}", "403"),
        ("{host}:1", "403"),
        ("169.254.169.254:80", "403"),
        ("example.org:443", "403"),
        ("{host}", "400"),
        ("user@{host}:{index}", "400"),
        ("{host}:{index}/path", "400"),
        ("{host}:999999", "400"),
    ],
)
def test_only_what_is_named_is_opened(
    shared: Gateway, token: str, index: int, target: str, status: str
) -> None:
    named = target.format(host=HOST, index=index, port=port_of(shared))
    code = f"{ASK}\nprint(ask('CONNECT {named} HTTP/1.1'))"
    told = python(shared, token, code)
    if status == "200":
        assert told.startswith("HTTP/1.1 200")
    else:
        assert told.split()[1] in {status, "400", "403", "502"} - {"200"}


def test_an_internal_host_takes_the_operators_word_too(
    shared: Gateway, token: str, index: int
) -> None:
    """The profile names it; that it is internal, and meant, is said in `egress.allow_hosts`."""
    code = f"{ASK}\nprint(ask('CONNECT 127.0.0.3:{index} HTTP/1.1'))"
    assert python(shared, token, code, network="internal").startswith("HTTP/1.1 403")


@pytest.mark.parametrize(
    "head",
    [
        "nonsense",
        "GET / HTTP/1.1",
        "GET https://127.0.0.2/ HTTP/1.1",
        "CONNECT 127.0.0.2:1 HTTP/2.0",
        "CONNECT 127.0.0.2:1",
        "GET http://127.0.0.2:1/ HTTP/1.1\\r\\n folded: x",
        "GET http://127.0.0.2:1/ HTTP/1.1\\r\\nX: a\\nY: b",
    ],
)
def test_what_is_no_request_for_a_proxy_is_refused(shared: Gateway, token: str, head: str) -> None:
    assert python(shared, token, f"{ASK}\nprint(ask('{head}'))").startswith("HTTP/1.1 400")


def test_a_sandbox_without_a_network_has_no_door(shared: Gateway, token: str) -> None:
    code = f"{TRY}\nimport os\nprint(tried('127.0.0.1', 3128), os.environ.get('http_proxy'))"
    result = shared.rpc(token, "sandbox.run", argv=["python3", "-c", code])
    assert result["stdout"] == "ConnectionRefusedError None\n"


def test_a_network_that_is_not_named_is_refused(shared: Gateway, token: str) -> None:
    reply = shared.rpc_reply(token, "sandbox.run", {"argv": ["true"], "network": "other"})
    assert (reply.status, reply.json["error"]["data"]["field"]) == (400, "network")
    reply = shared.rpc_reply(token, "config.set", {"raw": "sandbox: {network: other}"})
    assert (reply.status, reply.json["error"]["data"]["field"]) == (400, "raw.sandbox.network")
    shared.rpc(token, "config.set", raw="sandbox: {network: packages}")
    explained = shared.rpc(token, "sandbox.explain")["profile"]["network"]
    assert explained == {"value": "packages", "source": "tenant"}


def rows(gateway: Gateway, tenant: str) -> list[tuple[str, int, int]]:
    ledger = apsw.Connection(
        str(gateway.state_dir / "ledger" / "ledger.sqlite"), flags=apsw.SQLITE_OPEN_READONLY
    )
    try:
        found = ledger.execute(
            "SELECT kind, bytes, wall_ms FROM entries WHERE tenant = ? ORDER BY kind", (tenant,)
        )
        return [(str(kind), int(moved), int(wall)) for kind, moved, wall in found]
    finally:
        ledger.close()


def test_bytes_and_seconds_are_in_the_ledger(shared: Gateway, index: int) -> None:
    tenant = f"tenant-{next(_numbers)}"
    token = shared.create(tenant)
    code = (
        "import os, time, urllib.request\n"
        f"print(len(urllib.request.urlopen('http://{HOST}:{index}/long/300000').read()))\n"
        "time.sleep(0.2)"
    )
    assert python(shared, token, code) == "300000\n"
    for _ in range(100):
        if len(found := rows(shared, tenant)) == 2:
            break
        shared.rpc(token, "health")
    (_, moved, _), (_, _, wall_ms) = found
    assert [kind for kind, *_ in found] == ["egress", "sandbox"]
    assert 300_000 < moved < 310_000
    assert 200 <= wall_ms < 60_000


def test_a_sandbox_that_runs_gets_the_next_egress(shared: Gateway, token: str, index: int) -> None:
    url = f"http://{HOST}:{index}/long/1000"
    code = f"""
import os, time, urllib.request
deadline = time.monotonic() + 30
print(len(urllib.request.urlopen('{url}', timeout=10).read()), flush=True)
open('/work/first', 'w').close()
while not os.path.exists('/work/go'):
    assert time.monotonic() < deadline
    time.sleep(0.02)
while True:
    try:
        print(len(urllib.request.urlopen('{url}', timeout=10).read()), flush=True)
        break
    except OSError:
        assert time.monotonic() < deadline
"""
    run = Run(shared, token, "python3", "-c", code, network="packages")
    wait_running(shared, token, 1)
    while not shared.rpc(token, "sandbox.files.list")["entries"]:
        pass
    before = shared.process("openclaw: egress")
    before.kill()
    shared.rpc(token, "sandbox.files.put", path="go", data="")
    run.join()
    assert run.result["stdout"] == "1000\n1000\n", run.result
    assert shared.process("openclaw: egress").pid != before.pid

"""A sandbox with a network: what its profile opens, and that nothing else is open; both modes.

An index of packages is served on this machine's loopback, under a name that the operator has opened
(`egress.allow_hosts`), and beside it a server that no profile names. What is tried inside runs as a
program of `reaching.py`.
"""

import base64
import hashlib
import http.server
import ipaddress
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pip
import pytest

from protocol import limits
from protocol.environment import PROXY
from supervisor import ledger_reading
from tests import dockerd as daemon
from tests.conformance import inside, reaching
from tests.conformance.box import MODES, Box, abstract_listener, own_address
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway
from tests.e2e.sandboxes import Run, wait_running

WHEEL: Final = "openclaw_greeting-1.0-py3-none-any.whl"
HOST: Final = "127.0.0.2"  # loopback, and no address of `no_proxy`
GREETING: Final = "hello from the index"
CANARY: Final = "canary-of-a-server-nobody-named"
FLOOD: Final = 2 * limits.PROXY_CONNECTIONS_PER_SANDBOX_MAX


def wheel() -> bytes:
    """A package as small as one can be (PEP 427)."""
    files = {
        "openclaw_greeting.py": f"TEXT = {GREETING!r}\n",
        "openclaw_greeting-1.0.dist-info/METADATA": (
            "Metadata-Version: 2.1\nName: openclaw-greeting\nVersion: 1.0\n"
        ),
        "openclaw_greeting-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{name},sha256={digest.decode()},{len(text)}\n")
    files["openclaw_greeting-1.0.dist-info/RECORD"] = "".join(record)
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


class Index(http.server.ThreadingHTTPServer):
    """A package index (PEP 503), or for what is not of it, a canary."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__((HOST, 0), _Pages)

    @property
    def place(self) -> str:
        return f"{HOST}:{self.server_port}"


class _Pages(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/simple/openclaw-greeting/":
            link = f'<a href="/{WHEEL}">{WHEEL}</a>'
            self._answer("text/html", f"<!DOCTYPE html><html><body>{link}</body></html>".encode())
        elif self.path == f"/{WHEEL}":
            self._answer("application/octet-stream", wheel())
        elif self.path == "/echo":
            self._answer("text/plain", str(self.headers).encode())
        else:
            self._answer("text/plain", CANARY.encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class House(NamedTuple):
    """A tenant, the index that its profile opens, and a server that nobody has opened."""

    box: Box
    packages: Index
    other: Index

    def reach(self, *, network: str = "packages", **asked: Any) -> Any:
        """Give what `reaching.py` reports from a sandbox."""
        ran = self.box.run("python3", "reaching.py", json.dumps(asked), network=network)
        assert ran["exitCode"] == 0, ran
        return json.loads(ran["stdout"])

    def egress_bytes(self, tenant: str) -> int:
        db = ledger_reading.open_ledger(self.box.gateway.state_dir / "ledger")
        assert db is not None
        with closing(db):
            found = ledger_reading.entries(db, tenant=tenant)
            return sum(each.bytes for each in found if each.kind == "egress")

    def wait_for_bytes(self, tenant: str, least: int) -> None:
        """Wait until so many are charged: that is when the sandbox has ended."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while self.egress_bytes(tenant) < least:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Index, Index]]:
    with Index() as index, Index() as other:
        for server in (index, other):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield index, other
        for server in (index, other):
            server.shutdown()


@pytest.fixture(scope="module", params=MODES)
def house(request: pytest.FixtureRequest, servers: tuple[Index, Index]) -> Iterator[House]:
    index, other = servers
    section: dict[str, Any] = {
        "network": {"packages": [index.place], "closed": [other.place, "localhost:1"]},
        "concurrent": 8,
    }
    if request.param == "docker":
        host = request.getfixturevalue("dockerd")
        section["docker"] = {"host": host, "images": {"base": daemon.load_image(host)}}
    state = make_state_dir()
    try:
        config = {"sandbox": section, "egress": {"allow_hosts": [index.place]}}
        (state / "config.yaml").write_text(json.dumps(config))
        with Gateway(state) as gateway:
            box = Box(gateway, request.param)
            box.put(reaching)
            yield House(box, index, other)
    finally:
        remove_tree(state)


def _pip() -> bytes:
    """pip as an archive that Python runs: a clean machine has none for its own Python."""
    made = BytesIO()
    root = Path(pip.__file__).parent
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*root.rglob("*.py"), root / "_vendor" / "certifi" / "cacert.pem"]:
            archive.write(path, path.relative_to(root.parent))
    return made.getvalue()


def test_pip_installs_from_the_index_that_a_profile_names(house: House) -> None:
    data = base64.b64encode(_pip()).decode()
    house.box.call("sandbox.files.put", path="pip.zip", data=data, encoding="base64")
    index = f"http://{house.packages.place}/simple/"
    before = house.egress_bytes("acme")
    install = (
        f'python3 -c \'import sys; sys.path.insert(0, "/work/pip.zip"); '
        f"from pip._internal.cli.main import main; sys.exit(main(sys.argv[1:]))' install "
        f"--no-cache-dir --trusted-host {HOST} --disable-pip-version-check --index-url {index} "
        f"--target /work/lib openclaw-greeting && "
        f'python3 -c \'import sys; sys.path.insert(0, "/work/lib"); '
        f"import openclaw_greeting; print(openclaw_greeting.TEXT)'"
    )
    ran = house.box.shell(install, network="packages")
    assert ran["exitCode"] == 0, ran
    assert ran["stdout"].endswith(GREETING + "\n")
    assert f"/{WHEEL}" in house.packages.asked
    house.wait_for_bytes("acme", before + len(wheel()))


def test_who_asks_for_none_has_no_network_and_no_proxy(house: House) -> None:
    found = house.reach(network="none", direct=[["127.0.0.1", PROXY[1]]])
    assert found == {"proxy": [], "direct": ["ConnectionRefusedError"], "variables": []}


def test_nothing_is_reached_without_the_proxy(house: House) -> None:
    gateway = urlsplit(house.box.gateway.url).port
    closed = [
        *(["127.0.0.1", port] for port in (gateway, 22)),
        *([HOST, port] for port in (house.packages.server_port, house.other.server_port)),
        *([own_address(), port] for port in (gateway, house.other.server_port)),
        *(["169.254.169.254", 80], ["1.1.1.1", 53], ["pypi.org", 443], ["::1", gateway]),
    ]
    found = house.reach(direct=closed)["direct"]
    assert len(found) == len(closed)
    assert "reached" not in found


def test_through_the_proxy_only_what_the_profile_names_is_reached(house: House) -> None:
    port, other = house.packages.server_port, house.other.server_port
    number = int(ipaddress.IPv4Address(HOST))
    gateway = urlsplit(house.box.gateway.url).port
    spellings = (
        *("127.2", "0x7f000002", str(number), "0177.0.0.2", "localhost", "[::1]", "0.0.0.0"),
        *("127.0.0.1", f"[::ffff:{HOST}]", "[::ffff:7f00:2]", f"{HOST}.nip.io", f"{HOST}."),
    )
    places = (
        *(f"{spelling}:{port}" for spelling in spellings),
        *(f"{HOST}:{each}" for each in (other, gateway, 22, 65536, 0)),
        f"127.0.0.1:{gateway}",
        *("169.254.169.254:80", "metadata.google.internal:80", "pypi.org:443", HOST),
        *(f"user@{HOST}:{port}", f"{HOST}:{port}@{HOST}:{other}"),
    )
    heads = [f"CONNECT {place} HTTP/1.1\r\n\r\n" for place in places]
    heads += [f"GET http://{place}/echo HTTP/1.1\r\n\r\n" for place in places]
    said = house.reach(proxy=heads)["proxy"]
    refused = dict(zip(heads, said, strict=True))
    assert {answer[:12] for answer in refused.values()} <= {"HTTP/1.1 403", "HTTP/1.1 400"}, refused
    assert not house.other.asked


def test_a_profile_does_not_open_what_is_internal(house: House) -> None:
    head = f"CONNECT {house.other.place} HTTP/1.1\r\n\r\n"
    (said,) = house.reach(network="closed", proxy=[head])["proxy"]
    assert said.startswith("HTTP/1.1 403")
    assert "egress.allow_hosts" in said
    assert not house.other.asked


def test_what_follows_a_request_reaches_nobody_else(house: House) -> None:
    place, other = house.packages.place, house.other.place
    second = f"GET http://{other}/ HTTP/1.1\r\nHost: {other}\r\n\r\n"
    heads = [
        f"GET http://{place}/echo HTTP/1.1\r\nHost: {other}\r\nProxy-Authorization: x\r\n\r\n",
        f"GET http://{place}/echo HTTP/1.1\r\n\r\n{second}",
        f"CONNECT {place} HTTP/1.1\r\n\r\n{second}",
    ]
    first, pipelined, tunnel = house.reach(proxy=heads)["proxy"]
    assert first.startswith("HTTP/1.0 200")
    assert f"Host: {place}" in first
    assert other not in first
    assert "Authorization" not in first
    assert CANARY not in pipelined + first
    assert tunnel.startswith("HTTP/1.1 200 Connection established\r\n\r\n")
    assert not house.other.asked


def test_a_flood_of_connections_is_bounded_and_others_are_served(house: House) -> None:
    flood = (
        "import select, socket, time\n"
        f"held = [socket.create_connection({PROXY!r}) for _ in range({FLOOD})]\n"
        "deadline = time.monotonic() + 8\n"  # before those that say nothing are given up
        f"while len(held) > {limits.PROXY_CONNECTIONS_PER_SANDBOX_MAX}:\n"
        "    left = deadline - time.monotonic()\n"
        "    ended, _, _ = select.select(held, [], [], max(0, left))\n"
        "    if not ended:\n"
        "        break\n"
        "    held = [one for one in held if one not in ended]\n"
        "print(len(held))"
    )
    ran = house.box.python(flood, network="packages")
    assert int(ran["stdout"]) == limits.PROXY_CONNECTIONS_PER_SANDBOX_MAX, ran
    said = house.reach(proxy=[f"GET http://{house.packages.place}/echo HTTP/1.1\r\n\r\n"])
    assert said["proxy"][0].startswith("HTTP/1.0 200")


def test_a_sandbox_that_runs_has_its_network_again_from_the_next_egress(house: House) -> None:
    ask = (
        "import os, time, urllib.request\n"
        "open('/work/begun', 'w').close()\n"
        "while not os.path.exists('/work/killed'):\n"
        "    time.sleep(0.01)\n"
        f"print(urllib.request.urlopen('http://{house.packages.place}/').status)\n"
    )
    running = Run(
        house.box.gateway,
        house.box.token,
        *("python3", "-c", ask),
        sandbox=house.box.mode,
        network="packages",
    )
    wait_running(house.box.gateway, house.box.token, 1)
    before = house.box.gateway.process("openclaw: egress")
    before.kill()
    before.wait()
    (house.box.work / "killed").touch()
    running.join(REQUEST_SECONDS)
    assert running.result["stdout"] == "200\n", running.result


def test_a_profile_that_there_is_not_is_refused_by_name(house: House) -> None:
    reply = house.box.gateway.rpc_reply(
        house.box.token, "sandbox.run", {"argv": ["true"], "network": "everything"}
    )
    assert reply.status == 400
    error = reply.json["error"]
    assert error["data"]["field"] == "network"
    assert "packages" in error["message"]
    written = {"raw": "tools: {exec: {network: everything}}"}
    reply = house.box.gateway.rpc_reply(house.box.token, "config.set", written)
    assert (reply.status, reply.json["error"]["data"]["field"]) == (400, "raw.tools.exec.network")


def test_it_is_shown(house: House) -> None:
    explained = house.box.call("sandbox.explain", sandbox=house.box.mode, network="packages")
    assert explained["profile"]["network"] == {"value": "packages", "source": "call"}
    assert explained["environment"]["http_proxy"]["value"].endswith(f":{PROXY[1]}")
    assert house.box.call("sandbox.status")["networks"] == ["closed", "packages"]


def test_a_terminal_has_one_too(house: House) -> None:
    ask = (
        "import urllib.request\n"
        f"found = urllib.request.urlopen('http://{house.packages.place}/').status\n"
        "open('/work/terminal.part', 'w').write(str(found))\n"
        "import os; os.rename('/work/terminal.part', '/work/terminal')"
    )
    cmd = ["python3", "-c", ask]
    house.box.call("terminal.spawn", cmd=cmd, sandbox=house.box.mode, network="packages")
    deadline = time.monotonic() + REQUEST_SECONDS
    while not (house.box.work / "terminal").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (house.box.work / "terminal").read_text() == "200"


def test_without_python_a_container_has_none_and_says_so(house: House) -> None:
    params = {
        "argv": ["/bin/echo", "ran"],
        "sandbox": house.box.mode,
        "network": "packages",
        "env": {"PATH": "/work"},
    }
    reply = house.box.gateway.rpc_reply(house.box.token, "sandbox.run", params)
    if house.box.mode == "bubblewrap":  # which needs none
        assert reply.json["result"]["stdout"] == "ran\n"
    else:
        assert reply.json["error"]["data"]["field"] == "network"
        assert "python3" in reply.json["error"]["message"]


def test_another_listener_than_the_first_is_the_sandboxes_own(house: House) -> None:
    """What a tenant does to its door, or listens at beside it, is in its own namespace."""
    listen = (
        "import socket\n"
        "with socket.create_server(('0.0.0.0', 9999)) as server:\n"
        "    with socket.create_connection(('127.0.0.1', 9999), 5):\n"
        "        server.accept()[0].close()\n"
        "open('/work/listening', 'w').close()\n"
        "with socket.create_server(('0.0.0.0', 9998)):\n"
        "    import os, time\n"
        "    while not os.path.exists('/work/looked'):\n"
        "        time.sleep(0.01)\n"
    )
    running = Run(
        house.box.gateway,
        house.box.token,
        *("python3", "-c", listen),
        sandbox=house.box.mode,
        network="packages",
    )
    deadline = time.monotonic() + REQUEST_SECONDS
    while not (house.box.work / "listening").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = house.reach(direct=[["127.0.0.1", 9998]])["direct"]
    (house.box.work / "looked").touch()
    running.join(REQUEST_SECONDS)
    assert (running.result["exitCode"], found) == (0, ["ConnectionRefusedError"]), running.result


def test_all_else_is_as_without_one(house: House) -> None:
    """The families of `test_sandbox.py` that could tell."""
    house.box.put(inside)
    families = ("descriptors", "identity", "network", "devices", "signals", "limits")
    reports = []
    with abstract_listener() as name:
        port = urlsplit(house.box.gateway.url).port
        told = [f"port={port}", f"abstract={name}", f"address={own_address()}"]
        for network in ("none", "packages"):
            argv = ["python3", "/work/inside.py", *families, *told]
            ran = house.box.run(*argv, network=network)
            assert ran["exitCode"] == 0, ran
            reports.append(json.loads(ran["stdout"]))
    without, having = reports
    for family in families:
        assert "failed" not in having[family]
        assert having[family] == without[family], family

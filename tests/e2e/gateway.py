"""A real gateway as a child process, and what a client and an operator do with it."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import psutil

from protocol import limits
from supervisor.caps import place
from supervisor.tls import client_context
from tests import cgroups
from tests.patience import PATIENCE

OPENCLAW = str(Path(sys.executable).with_name("openclaw"))
SPARE = "openclaw: spare"
ZYGOTE = "openclaw: zygote"
START_SECONDS = 20.0 * PATIENCE
STOP_SECONDS = 20.0 * PATIENCE
REQUEST_SECONDS = 30.0 * PATIENCE


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gateway:
    """`openclaw gateway` on a free port."""

    def __init__(self, state_dir: Path, *, command: tuple[str, ...] = ()) -> None:
        self.state_dir = state_dir
        self.env = {**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)}
        self.env.pop("OPENCLAW_ADMIN_KEY", None)
        self._process = subprocess.Popen(
            command or (OPENCLAW, "gateway", "--port", "0"),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.banner = self._read_banner()
        self.url = next(part for part in self.banner.split(" · ") if part.startswith("http"))
        self.address = urlsplit(self.url).netloc

    def _read_banner(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._process.kill()
            _, errors = self._process.communicate()
            raise AssertionError(f"the gateway did not start: {errors}")
        return line.strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close_output(self) -> None:
        """Go away as a reader of what it prints."""
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def wait_in_flight(self, tenant: str) -> None:
        """Wait until a call of the tenant is in flight."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while not self.openclaw_json("tenants", "status", tenant)[0]["inFlight"]:
            assert time.monotonic() < deadline

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the supervisor."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Signal the supervisor and wait; gives exit code and standard error."""
        self._process.send_signal(number)
        if self._process.stderr is not None and self._process.stderr.closed:
            return self._process.wait(STOP_SECONDS), ""
        _, errors = self._process.communicate(timeout=STOP_SECONDS)
        return self._process.returncode, errors

    def close(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._process.communicate()
        if self._process.returncode:  # else it has done so itself
            with contextlib.suppress(place.UnusableError, FileNotFoundError):
                place.find(cgroups.SETTING).sweep(place.name_of(self.state_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Processes

    def processes(self) -> dict[str, psutil.Process]:
        """Give the processes below the supervisor by their title, but for the spares."""
        return {title: child for title, child in self._children() if title != SPARE}

    def spares(self) -> list[psutil.Process]:
        """Give those that wait to become a worker, when there are as many as there should be."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            found = [child for title, child in self._children() if title == SPARE]
            if len(found) == limits.SPARES:
                return found
            assert time.monotonic() < deadline, found

    def _children(self) -> Iterator[tuple[str, psutil.Process]]:
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                title = " ".join(child.cmdline()).strip()
                # A newborn bears its zygote's title until it has given itself its own.
                if title != ZYGOTE or not self._is_in_a_pid_namespace(child):
                    yield title, child

    def _is_in_a_pid_namespace(self, child: psutil.Process) -> bool:
        ours, its = (
            re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            for pid in (self.pid, child.pid)
        )
        assert ours is not None
        return its is not None and len(its[1].split()) > len(ours[1].split())

    def process(self, title: str) -> psutil.Process:
        found = self.processes()
        assert title in found, f"{title} is not among {sorted(found)}"
        return found[title]

    # Operator

    def openclaw(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [OPENCLAW, *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=REQUEST_SECONDS,
        )

    def openclaw_json(self, *arguments: str) -> Any:
        done = self.openclaw(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def create(self, tenant: str) -> str:
        """Create a tenant; gives its token."""
        token: str = self.openclaw_json("tenants", "create", tenant)["token"]
        return token

    def log_lines(self) -> list[dict[str, Any]]:
        text = (self.state_dir / "gateway.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    # Client

    def request(
        self,
        verb: str,
        path: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        with contextlib.closing(self._connection()) as connection:
            connection.request(verb, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Reply(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )

    def _connection(self) -> http.client.HTTPConnection:
        if not self.url.startswith("https://"):
            return http.client.HTTPConnection(self.address, timeout=REQUEST_SECONDS)
        context = client_context(self.state_dir / "tls")
        return http.client.HTTPSConnection(self.address, timeout=REQUEST_SECONDS, context=context)

    def post(self, path: str, token: str | None, body: object, **headers: str) -> Reply:
        return self.request(
            "POST", path, token=token, body=json.dumps(body).encode(), headers=headers
        )

    def rpc(self, token: str, method: str, **params: Any) -> Any:
        """Call a method; gives its result."""
        reply = self.rpc_reply(token, method, params)
        assert reply.status == 200, reply.body
        return reply.json["result"]

    def rpc_reply(self, token: str | None, method: str, params: object) -> Reply:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return self.post("/rpc", token, call)

    def inbound(self, token: str, text: str, user: str = "u1", **envelope: Any) -> Reply:
        body = {"user": {"id": user}, "content": {"type": "text", "text": text}, **envelope}
        return self.post("/channels/webhook/default", token, body)


@contextlib.contextmanager
def ends(*processes: psutil.Process, within: float = STOP_SECONDS) -> Iterator[None]:
    """Check that all of these end, at the latest `within` seconds after the block."""
    descriptors = {os.pidfd_open(process.pid): process for process in processes}
    try:
        yield
        deadline = time.monotonic() + within
        for descriptor, process in descriptors.items():
            ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{process.pid} still runs"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

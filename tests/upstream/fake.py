"""The fake upstream as a process: `with FakeUpstream() as upstream: … upstream.base_url`."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

SERVER = Path(__file__).with_name("server.py")
BACKLOG = 1024


class FakeUpstream:
    """A provider of models on a port of the loopback; see `tests/upstream/script.py`.

    Args:
        key: The only one that it takes; empty: it asks for none.
        certificate: Speak TLS, with this certificate.
        private_key: The certificate's.

    Attributes:
        host_port: What `egress.allow_hosts` has to name.
        base_url: Of a provider of the type `openai`.
        anthropic_url: Of one of the type `anthropic`.
    """

    def __init__(
        self, key: str = "", *, certificate: Path | None = None, private_key: Path | None = None
    ) -> None:
        self._arguments = [key]
        if certificate and private_key:
            self._arguments += [str(certificate), str(private_key)]
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self.host_port = f"127.0.0.1:{self.port}"
        scheme = "https" if certificate else "http"
        self.anthropic_url = f"{scheme}://{self.host_port}"
        self.base_url = f"{self.anthropic_url}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), str(descriptor), *self._arguments],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )
        self._listener.close()
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def seen(self) -> dict[str, Any]:
        """What it got: `requests`, `connections` (with this one), `open`, `answering`,
        `cancelled`, `models` (how often each), `last` (`method`, `path`, `headers`, `body`)."""
        return self._control("/_seen")

    def reset(self) -> None:
        """Forget what it got."""
        self._control("/_reset")

    def wait(self, **counts: int) -> dict[str, Any]:
        """Wait until these of `seen` are so; raise TimeoutError after 20 s."""
        return self._control(f"/_wait?{urlencode(counts)}")

    def _control(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.anthropic_url}{path}", timeout=30) as answer:
                seen: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise TimeoutError(f"{path}: {error.read().decode()}") from error
        return seen

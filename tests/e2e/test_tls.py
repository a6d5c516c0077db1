"""A gateway with a certificate: everything that was HTTP is HTTPS, for clients and commands."""

import http.client
from pathlib import Path

import pytest

from tests.certificates import paths
from tests.e2e.gateway import Gateway


def configure(state_dir: Path, certificate: Path, key: Path) -> None:
    tls = f"tls: {{certificate: {certificate}, key: {key}}}"
    (state_dir / "config.yaml").write_text(f"gateway: {{{tls}}}\n")


def test_clients_and_commands_speak_https(state_dir: Path) -> None:
    configure(state_dir, paths.FIRST, paths.FIRST_KEY)
    with Gateway(state_dir) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        token = gateway.create("acme")
        assert gateway.inbound(token, "hello").status == 200
        assert gateway.openclaw_json("tenants", "status", "acme")[0]["state"] == "ready"
        plain = http.client.HTTPConnection(gateway.address, timeout=10)
        plain.request("GET", "/healthz")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()
        key = paths.FIRST_KEY.read_text().splitlines()[1]
        assert key not in (state_dir / "gateway.log").read_text()


def test_what_is_no_pair_keeps_it_from_starting(state_dir: Path) -> None:
    configure(state_dir, paths.FIRST, paths.SECOND_KEY)
    with pytest.raises(AssertionError, match="are no certificate and its key"):
        Gateway(state_dir)

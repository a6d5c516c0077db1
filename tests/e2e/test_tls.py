"""A gateway with a certificate: everything that was HTTP is HTTPS, for clients and commands."""

import http.client
import ssl
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


def certificate_of(gateway: Gateway) -> bytes:
    host, port = gateway.address.rsplit(":", 1)
    pem = ssl.get_server_certificate((host, int(port)), timeout=10)
    return ssl.PEM_cert_to_DER_cert(pem)


def test_a_reload_takes_the_renewed_certificate_and_refuses_what_is_no_pair(
    state_dir: Path,
) -> None:
    first, second = (
        ssl.PEM_cert_to_DER_cert(path.read_text()) for path in (paths.FIRST, paths.SECOND)
    )
    configure(state_dir, paths.FIRST, paths.FIRST_KEY)
    with Gateway(state_dir) as gateway:
        assert certificate_of(gateway) == first
        configure(state_dir, paths.FIRST, paths.SECOND_KEY)
        refused = gateway.openclaw("gateway", "reload")
        assert refused.returncode == 1
        assert "are no certificate and its key" in refused.stderr
        assert certificate_of(gateway) == first
        configure(state_dir, paths.SECOND, paths.SECOND_KEY)
        assert gateway.openclaw_json("gateway", "reload")["applied"] == ["gateway.tls"]
        assert certificate_of(gateway) == second
        configure(state_dir, paths.SECOND, paths.FIRST_KEY)
        assert gateway.openclaw("gateway", "reload").returncode == 1
        (state_dir / "config.yaml").unlink()
        done = gateway.openclaw_json("gateway", "reload")
        assert (done["applied"], done["needsRestart"]) == ([], ["gateway.tls"])
        assert certificate_of(gateway) == second

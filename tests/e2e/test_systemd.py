"""What systemd hears of a gateway that it runs."""

import socket
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_ready_watchdog_and_stopping(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(state_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(20)
        Path(address).chmod(0o777)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with Gateway(state_dir) as gateway:
            assert heard(sock) == ["READY=1", f"STATUS=serving {gateway.url}"]
            assert [heard(sock), heard(sock)] == [["WATCHDOG=1"]] * 2
            assert gateway.stop()[0] == 0
            while (said := heard(sock)) == ["WATCHDOG=1"]:
                pass
            assert said == ["STOPPING=1"]

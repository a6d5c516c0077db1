"""What systemd hears of a gateway that it runs."""

import signal
import socket
import time
from pathlib import Path

import pytest

from cli.exits import ExitCode
from tests.e2e.gateway import Gateway


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def next_but_watchdog(sock: socket.socket) -> list[str]:
    while (said := heard(sock)) == ["WATCHDOG=1"]:
        pass
    return said


def test_ready_watchdog_reload_and_stopping(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            before = time.monotonic_ns() // 1000
            gateway.send_signal(signal.SIGHUP)
            reloading, stamp = next_but_watchdog(sock)
            assert reloading == "RELOADING=1"
            usec = int(stamp.removeprefix("MONOTONIC_USEC="))
            assert before <= usec <= time.monotonic_ns() // 1000
            assert next_but_watchdog(sock) == ["READY=1"]
            assert gateway.stop()[0] == 0
            assert next_but_watchdog(sock) == ["STOPPING=1"]


def test_the_unit_is_what_the_gateway_keeps_to() -> None:
    unit = (Path(__file__).parents[2] / "docs" / "operations" / "openclaw.service").read_text()
    lines = unit.splitlines()
    assert {"Type=notify", "Delegate=yes", "KillMode=mixed"} <= set(lines)
    (codes,) = [line for line in lines if line.startswith("RestartPreventExitStatus=")]
    assert codes.endswith(f"={ExitCode.WOULD_FAIL_AGAIN:d} {ExitCode.CONFIGURATION:d}")
    (start,) = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    (reload,) = [line.partition("=")[2] for line in lines if line.startswith("ExecReload=")]
    assert reload == f"{start} reload"

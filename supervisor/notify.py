"""Tells systemd how the gateway is: sd_notify(3), one datagram to `NOTIFY_SOCKET`."""

import asyncio
import contextlib
import os
import socket
import time
from typing import Final

_USEC_PER_SECOND: Final = 1_000_000


class Notifier:
    """Says nothing where nobody listens.

    Args:
        environment: Where `NOTIFY_SOCKET` and `WATCHDOG_USEC` are.
    """

    def __init__(self, environment: "os._Environ[str] | dict[str, str]") -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address: Final = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds: Final = int(usec) / _USEC_PER_SECOND if usec.isdecimal() else 0.0

    def say(self, *states: str) -> None:
        """Send states such as `READY=1`; one that cannot be sent is lost."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto("\n".join(states).encode(), self._address)

    def reloading(self) -> None:
        """Say that the configuration is being read; `READY=1` has to follow."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.say("RELOADING=1", f"MONOTONIC_USEC={usec}")

    async def feed_watchdog(self) -> None:
        """Say for ever that the event loop turns, twice as often as is asked for."""
        while self.watchdog_seconds > 0:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)

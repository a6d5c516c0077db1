"""kill -9 of one process after another under writes, and what must hold after each.

After every cycle: what was acknowledged is on disk, once; every database is sound, the audit
verifies and the ledger reconciles, with nothing reserved; every turn has ended; the gateway serves;
and there is no process too many.
"""

import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from protocol import limits
from tests.chaos import till
from tests.chaos.clients import Caller, Client, Operator, UnansweredError, Writer
from tests.chaos.ledger import Ledger, check, open_turns
from tests.e2e.gateway import OPENCLAW, SPARE, Gateway, ends

TENANTS = ("acme", "globex")
WRITERS_OF_A_TENANT = 2
REPLACED = ("front", "zygote", "launcher", "disk", "egress")
SHARED = tuple(f"openclaw: {name}" for name in (*REPLACED, "stem"))
VICTIMS = ("worker", *REPLACED, "supervisor")
BEFORE_KILL_SECONDS_MAX = 0.3
AFTER_KILL_SECONDS_MAX = 0.1
SETTLE_SECONDS = 20.0
POLL_SECONDS = 0.02


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Kills:
    """One state root through many kills.

    Args:
        state_dir: Where it is.
        seed: Of every random choice.
        say: Told of each cycle in a line.
    """

    def __init__(self, state_dir: Path, seed: int, say: Callable[[str], None]) -> None:
        self._state_dir = state_dir
        self._random = random.Random(seed)
        self._say = say
        self._ledger = Ledger()
        self._port = free_port()
        self._address = f"127.0.0.1:{self._port}"
        self._gateway = self._start()
        self._pause = threading.Event()
        self._tokens = {tenant: self._gateway.create(tenant) for tenant in TENANTS}
        self._admin_key = (state_dir / "admin.key").read_text().strip()
        self._clients: list[Client] = []
        self.broken: list[str] = []
        self.seconds: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
        """From each kill until every client had its answer, by victim."""

    def _start(self) -> Gateway:
        return Gateway(self._state_dir, command=(OPENCLAW, "gateway", "--port", str(self._port)))

    def run(self, cycles: int) -> list[str]:
        """Kill so often; gives what was broken, in the cycle where that was found."""
        for number in range(cycles):
            victim = VICTIMS[number % len(VICTIMS)]
            broken = [*self._cycle(number, victim), *self._ledger.broken]
            took = self.seconds[victim][-1] * 1000
            self._say(f"cycle {number}: {victim}, {took:.0f} ms, {len(self._ledger.acks)} kept")
            if broken:
                self.broken = [f"cycle {number} ({victim}): {problem}" for problem in broken]
                break
        return self.broken

    def counts(self) -> dict[str, int]:
        return dict(Counter(ack.what for ack in self._ledger.acks))

    def close(self) -> None:
        self._gateway.close()

    def _cycle(self, number: int, victim: str) -> list[str]:
        self._begin(number)
        self._pause.wait(self._random.uniform(0, BEFORE_KILL_SECONDS_MAX))
        killed_at = time.monotonic()
        self._kill(victim)
        self._pause.wait(self._random.uniform(0, AFTER_KILL_SECONDS_MAX))
        for client in self._clients:
            client.finish()
        for client in self._clients:
            client.join()
        self.seconds[victim].append(time.monotonic() - killed_at)
        return [*self._settle(), *check(self._state_dir, self._ledger.acks), *self._strays()]

    def _begin(self, number: int) -> None:
        self._clients = [
            Writer(f"{tenant}-{index}-{number}", self._address, self._ledger, tenant, token)
            for tenant, token in self._tokens.items()
            for index in range(WRITERS_OF_A_TENANT)
        ]
        operator = Operator(f"op-{number}", self._address, self._ledger, self._admin_key)
        self._clients.append(operator)
        for client in self._clients:
            client.start()

    def _kill(self, victim: str) -> None:
        found = self._gateway.processes()
        if victim == "supervisor":
            with ends(*found.values()):
                self._gateway.stop(signal.SIGKILL)
            self._gateway = self._start()
            return
        workers = [f"openclaw: worker {tenant}" for tenant in TENANTS]
        shared = {name: [f"openclaw: {name}"] for name in REPLACED}
        named = {"worker": workers, **shared}
        there = [title for title in named[victim] if title in found]
        if there:  # a worker that has not been asked for since the start is not there
            process = found[self._random.choice(there)]
            with ends(process):
                process.kill()

    def _settle(self) -> list[str]:
        """Have each tenant write once more, and wait until no turn is open."""
        caller = Caller(self._address)
        for tenant, token in self._tokens.items():
            try:
                caller.rpc(token, "sessions.create", {"key": "agent:main:chaos:after"})
            except UnansweredError as error:
                return [f"{tenant} does not serve: {error}"]
        caller.close()
        deadline = time.monotonic() + SETTLE_SECONDS
        for tenant in TENANTS:
            while left := open_turns(self._state_dir, tenant):
                if time.monotonic() > deadline:
                    return [f"{tenant}: {left} turns never end"]
                self._pause.wait(POLL_SECONDS)
        while (found := till.wrong(self._state_dir)) and time.monotonic() < deadline:
            self._pause.wait(POLL_SECONDS)
        return found

    def _strays(self) -> list[str]:
        """Give the processes that should not be: two of a kind, dead ones, unknown ones."""
        titles: Counter[str] = Counter()
        problems: list[str] = []
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            titles.clear()
            problems.clear()
            for child in psutil.Process(self._gateway.pid).children(recursive=True):
                try:
                    titles[" ".join(child.cmdline()).strip()] += 1
                except psutil.ZombieProcess:
                    problems.append(f"zombie {child.pid}")
                except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                    continue
            known = {**dict.fromkeys(SHARED, 1), SPARE: limits.SPARES}
            problems += [
                f"{count} of {title}"
                for title, count in titles.items()
                if count > known.get(title, 1)
            ]
            problems += [
                f"stray {title!r}"
                for title in titles
                if title not in known and not title.startswith("openclaw: worker ")
            ]
            if not problems or time.monotonic() > deadline:
                return problems
            self._pause.wait(POLL_SECONDS)

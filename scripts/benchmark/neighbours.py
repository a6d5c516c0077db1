"""What a healthy tenant notices of one that misbehaves, in windows of quiet and noise in turn."""

import contextlib
import statistics
import threading
from collections.abc import Iterator
from typing import Any, Final

from scripts.benchmark import load
from tests.conftest import make_state_dir, remove_tree
from tests.workers.crowd import Crowd, Neighbour

POKE_SECONDS: Final = 0.05
# One of each kind there is in tests/workers, misbehaving in every generation.
BEHAVIOURS: Final = (
    "exits-1",
    "never-ready",
    "deaf",
    "blocks",
    "spins",
    "leaks",
    "floods-its-log",
    "forks",
    "floods-supervisor",
    "torn-to-supervisor",
    "huge-to-front",
    "unknown-to-front",
    "answer-never-asked",
    "tears-front-link",
    "closes-front-link",
)


def windows(rounds: int, seconds: float) -> dict[str, Any]:
    """For each behaviour: failed requests, and the neighbour's p99 in noise over that in quiet."""
    figures: dict[str, dict[str, Any]] = {}
    state_dir = make_state_dir()
    try:
        with Crowd(state_dir) as crowd, Neighbour(crowd, crowd.create("healthy")) as neighbour:
            for behaviour in BEHAVIOURS:
                figures[behaviour] = _against(crowd, neighbour, behaviour, rounds, seconds)
    finally:
        remove_tree(state_dir)
    figures["all"] = {
        "p99_ratio": round(statistics.median(one["p99_ratio"] for one in figures.values()), 2),
        "failures": sum(one["failures"] for one in figures.values()),
    }
    return figures


def _against(
    crowd: Crowd, neighbour: Neighbour, behaviour: str, rounds: int, seconds: float
) -> dict[str, Any]:
    tenant = f"always-{behaviour}"
    token = crowd.create(tenant)
    failures = len(neighbour.failures)
    quiet, noisy = [], []
    for _ in range(rounds):
        _set_state(crowd, tenant, "suspend", "suspended")
        quiet.append(_p99_ms(neighbour, seconds))
        _set_state(crowd, tenant, "resume", None)
        with _poked(crowd, token):
            noisy.append(_p99_ms(neighbour, seconds))
    _set_state(crowd, tenant, "suspend", "suspended")
    return {
        "quiet_p99_ms": round(statistics.median(quiet), 2),
        "noisy_p99_ms": round(statistics.median(noisy), 2),
        "p99_ratio": round(
            statistics.median(loud / still for loud, still in zip(noisy, quiet, strict=True)), 2
        ),
        "failures": len(neighbour.failures) - failures,
    }


def _p99_ms(neighbour: Neighbour, seconds: float) -> float:
    before = len(neighbour.seconds)
    threading.Event().wait(seconds)
    return load.percentile(neighbour.seconds[before:], 99) * 1000


def _set_state(crowd: Crowd, tenant: str, verb: str, awaited: str | None) -> None:
    reply = crowd.control("POST", f"/v1/tenants/{tenant}/{verb}", {})
    if reply.status >= 400:  # noqa: PLR2004 - HTTP
        raise RuntimeError(f"{verb} {tenant}: {reply.status} {reply.body!r}")
    if awaited is not None:
        crowd.wait_for(tenant, lambda row: row["state"] == awaited)


@contextlib.contextmanager
def _poked(crowd: Crowd, token: str) -> Iterator[None]:
    """Have the tenant called over and over, whatever becomes of the calls."""
    over = threading.Event()

    def poke() -> None:
        while not over.wait(POKE_SECONDS):
            with contextlib.suppress(OSError):
                crowd.rpc_reply(token, "health", {})

    # Some of these workers never answer: the front does, when their process has been ended.
    pokers = [threading.Thread(target=poke, daemon=True) for _ in range(2)]
    for poker in pokers:
        poker.start()
    try:
        yield
    finally:
        over.set()

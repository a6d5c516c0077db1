"""Misbehaving workers as real programs: each ends in the right state, and nobody else notices.

All live in one gateway; a neighbour is under load for the whole time and may see no failed request.
"""

import errno
import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from protocol.limits import CALLS_IN_FLIGHT_MAX, CHUNK_BYTES_MAX, FRAME_BYTES_MAX, PING_MISSES_MAX
from protocol.spawn import EXIT_OUT_OF_MEMORY
from supervisor.lifecycle import RESTARTS_MAX
from supervisor.logs import LINE_BYTES_MAX, PIPE_BURST_BYTES, PIPE_BYTES_PER_SECOND
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Reply, ends
from tests.workers import breaches, greed, starts
from tests.workers.crowd import Crowd, Neighbour

DEATHS_MAX = RESTARTS_MAX + 1
# Why is for the operator: `tenants status`, `tenants restart` and the log say it.
OUT_OF_SERVICE = "failed until its operator acts"
NEIGHBOUR = "healthy"
# SIGABRT writes the stacks and does not end it: a worker is the first process of its namespace.
UNANSWERED = f"killed by SIGKILL; {PING_MISSES_MAX} pings were not answered"
MEMORY_BYTES = 192 * 2**20


@pytest.fixture(scope="module")
def state_root() -> Iterator[Path]:
    path = make_state_dir()
    (path / "config.yaml").write_text(f"worker: {{memory_bytes: {MEMORY_BYTES}}}\n")
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def crowd(state_root: Path) -> Iterator[Crowd]:
    with Crowd(state_root) as gateway:
        yield gateway
        children = psutil.Process(gateway.pid).children(recursive=True)
        assert len(children) > 3
        with ends(*children):
            code, errors = gateway.stop()
        assert code == 0, errors


@pytest.fixture(scope="module")
def loaded(crowd: Crowd) -> Iterator[Neighbour]:
    with Neighbour(crowd, crowd.create(NEIGHBOUR)) as neighbour:
        yield neighbour
    row = crowd.status(NEIGHBOUR)
    assert (row["state"], row["deaths"]) == ("ready", 0)


@pytest.fixture(autouse=True)
def unnoticed(loaded: Neighbour) -> Iterator[None]:
    """After every test: the neighbour was served meanwhile, and every time."""
    before = loaded.answered
    yield
    assert loaded.failures == []
    assert loaded.answered > before


def refused(reply: Reply, *, saying: str = "") -> None:
    """Check that a call was refused as one that may be tried again."""
    assert reply.status == 503, reply.body
    error = reply.json["error"]
    assert error["data"]["code"] == "UNAVAILABLE"
    assert error["data"]["retryable"] is True
    assert "retry-after" in reply.headers
    assert saying in error["message"]


def health(crowd: Crowd, token: str) -> Reply:
    return crowd.rpc_reply(token, "health", {})


def served_by_a_good_worker(crowd: Crowd, token: str) -> None:
    reply = health(crowd, token)
    assert reply.status == 200, reply.body
    assert reply.json["result"]["ok"] is True


# --- the start


@pytest.mark.parametrize("tenant", ["never-ready", "ready-when-aborted"])
def test_a_worker_that_is_not_ready_in_time_is_ended_and_the_next_one_serves(
    crowd: Crowd, tenant: str
) -> None:
    token = crowd.create(tenant)
    served_by_a_good_worker(crowd, token)  # the call waited for the second generation
    row = crowd.wait_for_state(tenant, "ready", deaths=1)
    assert row["lastDeath"] == "killed by SIGKILL; it was not ready in time"


def test_a_call_does_not_wait_for_ever_for_workers_that_are_never_ready(crowd: Crowd) -> None:
    token = crowd.create("always-never-ready")
    refused(health(crowd, token), saying="did not start in time")
    row = crowd.wait_for("always-never-ready", lambda row: row["deaths"] >= 1)
    assert row["state"] in ("starting", "backoff")
    assert "before_ready" in crowd.output_of("always-never-ready")  # what it did instead
    assert crowd.control("POST", "/v1/tenants/always-never-ready/suspend", {}).status == 200
    crowd.wait_for("always-never-ready", lambda row: row["state"] == "suspended")
    assert crowd.workers("always-never-ready") == []


def test_a_slow_start_is_waited_for(crowd: Crowd) -> None:
    token = crowd.create("slow-ready")
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda _: health(crowd, token), range(4)))
    assert [reply.status for reply in replies] == [200] * 4
    row = crowd.wait_for_state("slow-ready", "ready", deaths=0)
    assert row["uptimeSeconds"] >= starts.SLOW_SECONDS


def test_a_worker_that_ends_once_is_replaced_before_its_client_notices(crowd: Crowd) -> None:
    token = crowd.create("exits-1")
    served_by_a_good_worker(crowd, token)
    row = crowd.wait_for_state("exits-1", "ready", deaths=1)
    assert row["lastDeath"] == "exited with 1"


def test_a_crash_is_told_by_its_signal(crowd: Crowd) -> None:
    served_by_a_good_worker(crowd, crowd.create("segfaults"))
    row = crowd.wait_for_state("segfaults", "ready", deaths=1)
    assert row["lastDeath"] == "killed by SIGSEGV"


def test_an_end_with_0_that_nobody_asked_for_is_a_death_too(crowd: Crowd) -> None:
    served_by_a_good_worker(crowd, crowd.create("exits-0"))
    row = crowd.wait_for_state("exits-0", "ready", deaths=1)
    assert row["lastDeath"] == "exited with 0"


def test_an_exception_at_the_start_is_in_the_log(crowd: Crowd) -> None:
    served_by_a_good_worker(crowd, crowd.create("raises"))
    crowd.wait_for_state("raises", "ready", deaths=1)
    assert f"RuntimeError: {starts.LAST_WORDS}" in crowd.output_of("raises")


def test_over_the_restart_budget_a_tenant_fails_until_an_operator_acts(crowd: Crowd) -> None:
    tenant = "always-exits-1"
    token = crowd.create(tenant)
    refused(health(crowd, token), saying=OUT_OF_SERVICE)
    row = crowd.wait_for_state(tenant, "failed", deaths=DEATHS_MAX)
    assert row["reason"] == f"{DEATHS_MAX} deaths within 60 s of service; last: exited with 1"
    refused(health(crowd, token), saying=OUT_OF_SERVICE)
    events = [line["event"] for line in crowd.log_of(tenant)]
    assert events.count("worker died") == DEATHS_MAX
    assert events.count("tenant failed") == 1
    # It is the same again, and the operator who asked for it hears so.
    again = crowd.openclaw("tenants", "restart", tenant)
    assert again.returncode == 1
    assert "exited with 1" in again.stderr
    crowd.wait_for_state(tenant, "failed", deaths=2 * DEATHS_MAX)
    # With the cause seen to it serves.
    (crowd.state_dir / "tenants" / tenant / "mended").touch()
    (mended,) = crowd.openclaw_json("tenants", "restart", tenant)
    assert mended["state"] == "ready"
    assert "reason" not in mended
    served_by_a_good_worker(crowd, token)


@pytest.mark.parametrize("code", [3, 78])
def test_a_start_that_would_fail_again_is_not_tried_again(crowd: Crowd, code: int) -> None:
    tenant = f"exits-{code}"
    token = crowd.create(tenant)
    refused(health(crowd, token), saying=OUT_OF_SERVICE)
    row = crowd.wait_for_state(tenant, "failed", deaths=1)
    assert row["reason"].startswith(f"exited with {code}")
    (restarted,) = crowd.openclaw_json("tenants", "restart", tenant)
    assert restarted["state"] == "ready"
    served_by_a_good_worker(crowd, token)


# --- silence


def test_a_worker_that_answers_no_ping_is_replaced(crowd: Crowd) -> None:
    token = crowd.create("deaf")
    assert health(crowd, token).json["result"] == {}  # to its clients all seems well
    row = crowd.wait_for_state("deaf", "ready", deaths=1)
    assert row["lastDeath"] == UNANSWERED
    served_by_a_good_worker(crowd, token)


def test_a_blocked_loop_is_ended_and_the_log_says_where_it_hung(crowd: Crowd) -> None:
    token = crowd.create("blocks")
    refused(health(crowd, token), saying="went away")
    row = crowd.wait_for_state("blocks", "ready", deaths=1)
    assert row["lastDeath"] == UNANSWERED
    stacks = crowd.output_of("blocks")
    assert "Fatal Python error: Aborted" in stacks
    assert "handler_that_never_returns" in stacks
    served_by_a_good_worker(crowd, token)


def test_a_generation_that_ignores_its_end_does_not_keep_the_next_one_waiting(
    crowd: Crowd,
) -> None:
    tenant = "ignores-the-end"
    token = crowd.create(tenant)
    served_by_a_good_worker(crowd, token)
    (old,) = crowd.workers(tenant)
    old.send_signal(signal.SIGTERM)
    served_by_a_good_worker(crowd, token)
    with ends(old):
        (row,) = crowd.openclaw_json("tenants", "restart", tenant)
        assert row["pid"] != old.pid
        served_by_a_good_worker(crowd, token)
    crowd.wait_for(tenant, lambda _: len(crowd.workers(tenant)) == 1)
    (death,) = [line for line in crowd.log_of(tenant) if line["event"] == "worker died"]
    assert death["cause"] == "killed by SIGKILL; did not end in time"
    row = crowd.wait_for_state(tenant, "ready", deaths=1)  # in its history, and no reason to wait
    assert row["lastDeath"] == death["cause"]
    assert row["restarts"] == 1


def test_a_worker_that_ignores_its_end_can_be_suspended(crowd: Crowd) -> None:
    tenant = "always-ignores-the-end"
    served_by_a_good_worker(crowd, crowd.create(tenant))
    with ends(*crowd.workers(tenant)):
        assert crowd.openclaw("tenants", "suspend", tenant).returncode == 0
    row = crowd.wait_for_state(tenant, "suspended", deaths=1)
    assert row["lastDeath"] == "killed by SIGKILL; did not end in time"


# --- greed


def test_a_leaking_worker_ends_at_its_limit_and_the_next_one_serves(crowd: Crowd) -> None:
    token = crowd.create("leaks")
    shown = 0
    for _ in range(MEMORY_BYTES // greed.LEAK_BYTES + 1):
        reply = health(crowd, token)
        if reply.status != 200:
            break
        shown = max(shown, crowd.status("leaks")["memoryBytes"])
    refused(reply, saying="went away")
    row = crowd.wait_for_state("leaks", "ready", deaths=1)
    assert row["lastDeath"] == (
        f"exited with {EXIT_OUT_OF_MEMORY}; it reached its memory limit (worker.memory_bytes)"
    )
    assert row["deathHistory"][0]["outOfMemory"] is True
    assert MEMORY_BYTES / 2 < shown < 2 * MEMORY_BYTES
    assert "memory limit reached" in crowd.output_of("leaks")
    served_by_a_good_worker(crowd, token)


def test_a_worker_that_swallows_memory_before_it_is_ready_is_replaced(crowd: Crowd) -> None:
    served_by_a_good_worker(crowd, crowd.create("swallows"))
    row = crowd.wait_for_state("swallows", "ready", deaths=1)
    assert row["lastDeath"] == "exited with 1"  # it ends where the worker's own code is not yet
    assert "MemoryError" in crowd.output_of("swallows")


def test_a_flood_of_log_is_bounded_and_its_worker_goes_on(crowd: Crowd) -> None:
    tenant = "floods-its-log"
    token = crowd.create(tenant)
    served_by_a_good_worker(crowd, token)
    row = crowd.wait_for_state(tenant, "ready", deaths=0)
    assert crowd.control("POST", f"/v1/tenants/{tenant}/suspend", {}).status == 200
    crowd.wait_for(tenant, lambda _: any("bytes" in line for line in crowd.log_of(tenant)))
    lines = crowd.log_of(tenant)
    kept = sum(len(line["line"]) for line in lines if line["event"] == "output")
    lost = sum(line["bytes"] for line in lines if line["event"] == "output lost")
    most = PIPE_BURST_BYTES + (row["uptimeSeconds"] + 10) * PIPE_BYTES_PER_SECOND
    assert 0 < kept <= most
    assert lost >= 2 * greed.FLOOD_BYTES - most
    assert all(len(line.get("line", "")) <= LINE_BYTES_MAX for line in lines)


def test_a_worker_starts_no_process_and_signals_nobody(crowd: Crowd) -> None:
    token = crowd.create("forks")
    served_by_a_good_worker(crowd, token)
    crowd.wait_for_state("forks", "ready", deaths=0)
    (outcome,) = [
        json.loads(line["line"]) for line in crowd.log_of("forks") if line["event"] == "output"
    ]
    assert outcome == dict.fromkeys(greed.TRIES, "PermissionError")
    (worker,) = crowd.workers("forks")
    assert worker.children(recursive=True) == []


# --- broken links

CLOSED = "it closed its link"
OVER = f"a frame of {FRAME_BYTES_MAX + 1} bytes is over the bound of {FRAME_BYTES_MAX}"
UNREADABLE = "a frame that cannot be read: "
UNKNOWN_TAG = f"{UNREADABLE}Invalid value 99 - at `$[0]`"
FRONT = "link to the front: "
LAUNCHER = "link to the launcher: "
EGRESS = "link to egress: "
# What an operator reads behind "killed by SIGKILL; ".
BREACHES = {
    "torn-to-supervisor": CLOSED,
    "closes-supervisor-link": CLOSED,
    "huge-to-supervisor": OVER,
    "unknown-to-supervisor": UNKNOWN_TAG,
    "garbage-to-supervisor": (
        f"{UNREADABLE}MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)"
    ),
    "calls-supervisor": "a Call frame, which this end does not take",
    "answers-supervisor": "a Result frame, which this end does not take",
    "drained-unasked": "it says that it has drained, unasked",
    "pong-unasked": f"a pong to ping {breaches.NEVER_ASKED}, which waits for none",
    "foreign-event": "an event that nobody knows",
    "idle-too-early": "it says that it was idle, # s old",
    "idle-nonsense": "it says that it was idle, # s old",  # when, before what it says
    "floods-supervisor": "a Ping frame, which this end does not take",
    "huge-to-launcher": LAUNCHER + OVER,
    "unknown-to-launcher": LAUNCHER + UNKNOWN_TAG,
    "answers-launcher": LAUNCHER + "a Result frame, which this end does not take",
    "tells-launcher": LAUNCHER + "a Event frame, which this end does not take",
    "launcher-call-twice": LAUNCHER + "call id 1 again",
    "launcher-unknown-call": LAUNCHER + "a call of 'tenant.end', which the launcher does not have",
    "launcher-mode": (
        LAUNCHER + "parameters that cannot be read: Invalid enum value 'none' - at `$.mode`"
    ),
    "launcher-name": (
        LAUNCHER + "parameters that cannot be read: Expected `str` matching regex "
        r"'^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$(?!\\n)' - at `$.name`"
    ),
    "launcher-other-uid": (
        LAUNCHER + "parameters that cannot be read: Object contains unknown field `uid`"
    ),
    "floods-launcher": LAUNCHER + "more calls than a worker may make",
    "huge-to-egress": EGRESS + OVER,
    "unknown-to-egress": EGRESS + UNKNOWN_TAG,
    "garbage-to-egress": (
        f"{EGRESS}{UNREADABLE}MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)"
    ),
    "answers-egress": EGRESS + "a Result frame, which this end does not take",
    "tells-egress": EGRESS + "a Event frame, which this end does not take",
    "drains-egress": EGRESS + "a Drain frame, which this end does not take",
    "egress-call-twice": EGRESS + "call id 1 again",
    "egress-unknown-call": EGRESS + "a call of 'quota.use', which egress does not have",
    "floods-egress": f"{EGRESS}more than {CALLS_IN_FLIGHT_MAX} calls in flight",
    "huge-to-front": FRONT + OVER,
    "unknown-to-front": FRONT + UNKNOWN_TAG,
    "calls-front": FRONT + "a Call frame, which this end does not take",
    "answer-never-asked": (
        f"{FRONT}an answer to call {breaches.NEVER_ASKED + 1}, which is not open"
    ),
    "chunk-unasked": FRONT + "a chunk on call 1 without credit",
    "chunk-too-big": (
        f"{FRONT}{UNREADABLE}Expected `bytes` of length <= {CHUNK_BYTES_MAX} - at `$[2]`"
    ),
    "failure-nonsense": (
        f"{FRONT}failure details that are no JSON object: Expected `object`, got `array`"
    ),
}


@pytest.mark.parametrize("tenant", BREACHES)
def test_a_worker_that_breaks_a_link_is_replaced(crowd: Crowd, tenant: str) -> None:
    token = crowd.create(tenant)
    refused(health(crowd, token))
    row = crowd.wait_for_state(tenant, "ready", deaths=1)
    cause = re.sub(r"\d+\.\d{3} s", "# s", row["lastDeath"])
    assert cause == f"killed by SIGKILL; {BREACHES[tenant]}"
    served_by_a_good_worker(crowd, token)


def test_a_worker_can_hand_the_launcher_nothing(crowd: Crowd) -> None:
    token = crowd.create("hands-over")
    assert health(crowd, token).json["result"] == {"errno": errno.EPIPE}


def test_a_second_answer_reaches_nobody_and_ends_its_worker(crowd: Crowd) -> None:
    token = crowd.create("answers-twice")
    assert health(crowd, token).json["result"] == {}
    row = crowd.wait_for_state("answers-twice", "ready", deaths=1)
    assert row["lastDeath"] == (f"killed by SIGKILL; {FRONT}an answer to call 1, which is not open")
    served_by_a_good_worker(crowd, token)


def test_chunks_in_a_stream_are_bounded_too(crowd: Crowd) -> None:
    token = crowd.create("always-chunk-too-big")
    call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.send", "params": {}}
    reply = crowd.post("/rpc", token, call, Accept="text/event-stream")
    refused(reply)


@pytest.mark.parametrize("tenant", ["closes-front-link", "tears-front-link"])
def test_a_worker_that_closed_its_link_to_the_front_gets_another(crowd: Crowd, tenant: str) -> None:
    token = crowd.create(tenant)
    refused(health(crowd, token), saying="went away")
    row = crowd.wait_for_state(tenant, "ready", deaths=0)
    refused(health(crowd, token), saying="went away")  # by the new link, to the same worker
    assert crowd.status(tenant)["generation"] == row["generation"]


def test_a_worker_that_closes_every_link_to_the_front_is_replaced(crowd: Crowd) -> None:
    token = crowd.create("takes-no-front")
    # Closed before it was ready, its first link was never the front's: it is replaced unnoticed.
    if health(crowd, token).status != 200:
        row = crowd.wait_for_state("takes-no-front", "ready", deaths=1)
        assert "to the front" in row["lastDeath"]
    crowd.wait_for_state("takes-no-front", "ready", deaths=1)
    served_by_a_good_worker(crowd, token)


def test_a_worker_that_takes_no_link_to_the_front_is_replaced_unnoticed(crowd: Crowd) -> None:
    served_by_a_good_worker(crowd, crowd.create("closes-channel"))
    row = crowd.wait_for_state("closes-channel", "ready", deaths=1)
    assert row["lastDeath"] == (
        "killed by SIGKILL; it takes no link to the front: [Errno 32] Broken pipe"
    )


def test_workers_that_never_keep_to_it_fail(crowd: Crowd) -> None:
    tenant = "always-closes-channel"
    refused(health(crowd, crowd.create(tenant)), saying=OUT_OF_SERVICE)
    row = crowd.wait_for_state(tenant, "failed", deaths=DEATHS_MAX)
    assert row["reason"].startswith(f"{DEATHS_MAX} deaths within 60 s of service; last: ")

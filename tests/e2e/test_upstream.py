"""Models of a provider through the real gateway: its faults, its key, and what the ledger says."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from supervisor.egress.ledger_till import BYTES_PER_TOKEN
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply
from tests.e2e.memory import holds
from tests.upstream.fake import FakeUpstream

KEY = "sk-canary-7d20c4e81f5b"
RELEASED = {
    "hang": "does not answer in time",
    "reset": "ended the connection",
    "close": "ended the connection",
    "400": "as asked",
    "429 after:60": "takes no more requests",
    "key": "does not accept the key",
    "key-400": "refused the request",
    "redirect": "failed with status 302",
    "type": "is none of the API",
    "malformed": "is none of the API",
    "error": "is none of the API",
}
SETTLED = {
    "hang-middle": "fell silent",
    "reset-middle": "broke off",
    "close-middle": "broke off",
    "end-middle": "broke off",
    "malformed-middle": "is none of the API",
    "shape-middle": "is none of the API",
    "error-middle": "failed in the middle",
    "huge-middle": "is none of the API",
}


class House:
    """A gateway whose agents talk to the fake upstream, and a tenant of it."""

    def __init__(self, state_dir: Path, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.state_dir = state_dir
        self.gateway = Gateway(state_dir)
        self.token = self.gateway.create("acme")

    def say(self, text: str, user: str) -> Reply:
        """Say something in a session of the user's own."""
        return self.gateway.inbound(self.token, text, user)

    def rows(self) -> list[tuple[int, int]]:
        """Whether each is an estimate, and its output; after all that was reserved has ended."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while self.ledger("SELECT count(*) FROM reservations") != [(0,)]:
            assert time.monotonic() < deadline
        rows = self.ledger("SELECT estimated, output_tokens FROM entries ORDER BY id")
        return [(int(estimated), int(output)) for estimated, output in rows]

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        path = self.state_dir / "ledger" / "ledger.sqlite"
        flags = apsw.SQLITE_OPEN_READONLY
        with contextlib.closing(apsw.Connection(str(path), flags=flags)) as connection:
            return list(connection.execute(query))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    state_dir = make_state_dir()
    with FakeUpstream(KEY) as upstream:
        host = f"localhost:{upstream.port}"
        config = {
            "providers": {
                "fake": {"type": "openai", "base_url": f"http://{host}/v1", "api_key": KEY},
            },
            "models": {"fake": {"provider": "fake"}},
            "agents": {"model": "fake"},
            "billing": {"rate_card": {"fake": {"input": 1, "output": 2}}},
            "egress": {
                "allow_hosts": [host],
                "fetch_hosts": [host],
                "retries": 1,
                "first_byte_seconds": 0.5,
                "idle_seconds": 0.5,
                "total_seconds": 5,
            },
        }
        (state_dir / "config.yaml").write_text(json.dumps(config))
        house = House(state_dir, upstream)
        yield house
        house.gateway.close()
    remove_tree(state_dir)


@pytest.mark.parametrize("fault", RELEASED)
def test_what_was_not_answered_costs_nothing(house: House, fault: str) -> None:
    before = house.rows()
    reply = house.say(f"[[fault:{fault}]]", f"user-{fault.partition(' ')[0]}")
    assert reply.json["status"] == "error"
    assert RELEASED[fault] in reply.json["error"]
    assert house.rows() == before


@pytest.mark.parametrize("fault", SETTLED)
def test_what_broke_off_is_settled_by_estimate(house: House, fault: str) -> None:
    before = house.rows()
    reply = house.say(f"[[fault:{fault}]] a word or two", f"user-{fault}")
    assert reply.json["status"] == "error"
    assert SETTLED[fault] in reply.json["error"]
    (row,) = house.rows()[len(before) :]
    assert row[0] == 1


def test_what_is_refused_for_now_is_asked_again(house: House) -> None:
    before = house.rows()
    reply = house.say("again [[fault:503 times:1]]", "user-again")
    assert reply.json["reply"]["text"] == "You said: again"
    assert house.rows()[len(before) :] == [(0, 4)]


def test_usage_that_is_not_said_is_estimated(house: House) -> None:
    before = house.rows()
    reply = house.say("hello [[usage:none]]", "user-silent")
    assert reply.json["status"] == "ok"
    (row,) = house.rows()[len(before) :]
    assert row[0] == 1
    assert row[1] > 0


@pytest.mark.parametrize("usage", ["none", "huge", "less"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_estimate_counts_the_bytes_of_an_answer_however_it_came(
    house: House, usage: str, stream: bool
) -> None:
    before = house.rows()
    said = [{"role": "user", "content": f"ありがとう [[usage:{usage}]]"}]
    body = {"model": "fake", "messages": said, "stream": stream}
    reply = house.gateway.post("/v1/chat/completions", house.token, body)
    assert reply.status == 200
    answer = "You said: ありがとう".encode()
    assert house.rows()[len(before) :] == [(1, -(-len(answer) // BYTES_PER_TOKEN))]


def test_an_agent_fetches_what_is_named_and_its_bytes_are_charged(house: House) -> None:
    page = f"http://localhost:{house.upstream.port}/page?type=text/plain&body=the-page"
    there = f"{page}&status=302&to=http://169.254.169.254/latest/meta-data/"
    for url, said in (
        (page, "the-page"),
        (there, "169.254.169.254"),
        ("https://a.test/", "a.test"),
    ):
        script = f"[[call fetch {json.dumps({'url': url})}]]"
        reply = house.say(script, f"user-{said}")
        assert said in reply.json["reply"]["text"]
    deadline = time.monotonic() + REQUEST_SECONDS
    charged = "SELECT tenant, provider, bytes FROM entries WHERE kind = 'egress'"
    while not (moved := house.ledger(charged)):
        assert time.monotonic() < deadline
    assert moved == [("acme", "fetch", len("the-page"))]


def test_the_operators_key_is_nowhere(house: House) -> None:
    for fault in ("key", "key-400"):
        assert KEY not in house.say(f"[[fault:{fault}]]", "user-canary").body.decode()
    assert house.upstream.seen()["last"]["headers"]["authorization"] == f"Bearer {KEY}"
    searched = 0
    for path in house.state_dir.rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            assert KEY.encode() not in path.read_bytes(), path
            searched += 1
    assert searched > 5


@pytest.mark.root
def test_the_operators_key_is_in_no_memory_but_egress_s(house: House) -> None:
    house.say("hello", "user-memory")
    processes = house.gateway.processes()
    holders = {title for title, process in processes.items() if holds(process.pid, KEY)}
    assert holders == {"openclaw: egress"}
    assert not any(holds(spare.pid, KEY) for spare in house.gateway.spares())


def test_a_killed_egress_fails_calls_in_flight_and_is_replaced(house: House) -> None:
    house.upstream.reset()
    replies: list[Reply] = []
    slow = threading.Thread(
        target=lambda: replies.append(house.say("[[chunks:200 pace:100]]", "user-killed"))
    )
    slow.start()
    house.upstream.wait(answering=1)
    house.gateway.process("openclaw: egress").kill()
    slow.join()
    assert replies[0].json["status"] == "error"
    house.upstream.wait(cancelled=1, answering=0)
    assert house.say("hello", "user-after").json["status"] == "ok"
    house.rows()

"""`openclaw chat`, with a real gateway and on a terminal of the test's."""

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, Gateway
from tests.upstream.fake import FakeUpstream

SECONDS = 20.0
_names = (f"talker-{number}" for number in itertools.count())


class Talking(Gateway):
    """A gateway with the fake upstream's models, and one tenant for each test."""

    def tenant(self) -> tuple[str, str]:
        name = next(_names)
        key = (self.state_dir / "admin.key").read_text().strip()
        body = json.dumps({"tenantId": name}).encode()
        made = self.request("POST", "/v1/tenants", token=key, body=body)
        assert made.status < 300, made.body
        return name, made.json["token"]

    def chat(self, tenant: str, *more: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [OPENCLAW, "chat", "--tenant", tenant, *more],
            env=self.env,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream) -> Iterator[Talking]:
    state_dir = make_state_dir()
    config = {
        "providers": {"fake": {"type": "openai", "base_url": upstream.base_url}},
        "models": {"fake": {"provider": "fake"}},
        "agents": {"model": "fake"},
        "egress": {"allow_hosts": [upstream.host_port]},
        "billing": {"rate_card": {"fake": {"input": 1, "output": 2}}},
    }
    try:
        (state_dir / "config.yaml").write_text(json.dumps(config))
        with Talking(state_dir) as running:
            yield running
    finally:
        remove_tree(state_dir)


@contextlib.contextmanager
def terminal(gateway: Talking, tenant: str, *more: str) -> Iterator[Any]:
    child = pexpect.spawn(
        OPENCLAW,
        ["chat", "--tenant", tenant, *more],
        env={**gateway.env, "TERM": "xterm"},
        dimensions=(30, 200),
        timeout=SECONDS,
        encoding="utf-8",
    )
    try:
        yield child
    finally:
        child.close(force=True)


def test_one_message_and_its_answer(gateway: Talking) -> None:
    tenant, token = gateway.tenant()
    said = gateway.chat(tenant, "--session", "agent:main:one", "-m", "good morning")
    assert (said.returncode, said.stdout) == (0, "You said: good morning\n"), said.stderr
    line = 'look [[call write {"path": "a.txt", "content": "hello"}]]'
    said = gateway.chat(tenant, "--session", "agent:main:one", "-m", line)
    assert said.returncode == 0
    assert said.stdout == "look\nthe tool said: written: 5 bytes\n"
    assert said.stderr == '→ write {"path": "a.txt", "content": "hello"}\n← write\n'
    history = gateway.rpc(token, "chat.history", sessionKey="agent:main:one")
    roles = [row["role"] for row in history["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant"]
    told = json.loads(gateway.chat(tenant, "--json", "-m", "x").stdout)
    assert (told["status"], told["reply"]["content"][0]["text"]) == ("ok", "You said: x")
    assert told["usage"]["costMicroUsd"] > 0
    assert told["sessionKey"].startswith("agent:main:cli-")
    # What it acted with is gone.
    key = (gateway.state_dir / "admin.key").read_text().strip()
    tokens = gateway.request("GET", f"/v1/tenants/{tenant}/tokens", token=key).json["tokens"]
    ours = [each for each in tokens if each["name"].startswith("cli-")]
    assert all(each.get("revokedAt") for each in ours), ours


def test_lines_that_are_piped_in(gateway: Talking) -> None:
    tenant, _ = gateway.tenant()
    said = gateway.chat(tenant, typed="one\n\n/new\ntwo\n/quit\nthree\n")
    assert (said.returncode, said.stdout) == (0, "You said: one\nYou said: two\n")
    assert said.stderr.startswith("agent:main:cli-")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("-m", "[[fault:400]]"), 1, "openclaw: "),
        (("-m", "[[fault:429]]"), 75, "openclaw: "),
        (("--agent", "no agent", "-m", "x"), 1, "sessionKey"),
        (("--sandbox", "chroot", "-m", "x"), 2, "chroot"),
    ],
)
def test_what_fails_says_so(
    gateway: Talking, arguments: tuple[str, ...], code: int, why: str
) -> None:
    tenant, _ = gateway.tenant()
    said = gateway.chat(tenant, *arguments)
    assert said.returncode == code
    assert why in said.stderr


def test_a_conversation_on_a_terminal(gateway: Talking, upstream: FakeUpstream) -> None:
    tenant, _ = gateway.tenant()
    with terminal(gateway, tenant) as child:
        child.expect("agent:main:(cli-[0-9a-f]+) ")
        first = child.match[1]
        child.expect_exact("> ")
        child.sendline("/help")
        child.expect_exact("Ctrl-C ends the turn")
        child.sendline('[[call exec {"argv": ["echo", "from", "inside"]}]]')
        child.expect_exact('→ exec {"argv": ["echo", "from", "inside"]}')
        child.expect_exact("← exec")
        child.expect_exact("from inside")
        child.expect("[0-9]+ tokens in, [0-9]+ out, \\$0\\.0")
        # A turn that takes long is ended by Ctrl-C, and the conversation goes on.
        child.sendline("long [[chunks:2000 pace:20]]")
        child.expect_exact("word word")
        child.sendintr()
        child.expect_exact("the turn was ended")
        upstream.wait(answering=0)
        child.expect_exact("> ")
        child.sendline("\x1b]0;are you there")
        child.expect_exact("are you there")
        child.sendline("/new")
        child.expect("agent:main:(cli-[0-9a-f]+)")
        assert child.match[1] != first
        child.sendline("again")
        child.expect_exact("You said: again")
        child.expect_exact("> ")
        child.sendintr()
        child.expect(pexpect.EOF)
    assert child.exitstatus == 130

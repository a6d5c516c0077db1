"""Terminals through the whole gateway: what a shell needs, what outlives what, what is refused."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pexpect
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from protocol import limits
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, SPARE, Gateway
from tests.e2e.terminal import SECONDS, terminal

PROMPT = "READY-> "
MOST = 4
# Numbers its lines, so that a lost or doubled byte shows.
COUNTER = (
    "import time\nn = 0\nwhile True: print(f'{n:08d}', flush=True); n += 1; time.sleep(0.0005)"
)
_names = (f"tenant-{number}" for number in itertools.count())


class Shells(Gateway):
    """A gateway whose tenants have few terminals each."""

    def control(self, verb: str, path: str, body: object = None) -> Any:
        """Ask the control plane, as the commands do but without a process for each."""
        data = None if body is None else json.dumps(body).encode()
        key = (self.state_dir / "admin.key").read_text().strip()
        reply = self.request(verb, f"/v1/tenants{path}", token=key, body=data)
        assert reply.status < 400, reply.body
        return reply.json

    def tenant(self) -> tuple[str, str]:
        name = next(_names)
        return name, self.control("POST", "", {"tenantId": name})["token"]

    def generation(self, tenant: str) -> int:
        found: int = self.control("GET", f"/{tenant}/status")["tenants"][0].get("generation", 0)
        return found

    def token_names(self, tenant: str) -> list[str]:
        return [each["name"] for each in self.control("GET", f"/{tenant}/tokens")["tokens"]]

    def terminals(self, token: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rpc(token, "terminal.list")["terminals"]
        return found

    def until(self, holds: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def audited(self, tenant: str, action: str) -> list[dict[str, Any]]:
        lines = (self.state_dir / "audit.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        return [each for each in entries if (each["tenant"], each["action"]) == (tenant, action)]


@pytest.fixture(scope="module", params=["bubblewrap"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Shells]:
    state_dir = make_state_dir()
    section: dict[str, Any] = {"terminals": MOST, "mode": request.param}
    # Workers that nobody needs are soon gone, and the terminals are not.
    config = {"sandbox": section, "worker": {"idle_seconds": 1}}
    try:
        (state_dir / "config.yaml").write_text(json.dumps(config))
        with Shells(state_dir) as running:
            yield running
    finally:
        remove_tree(state_dir)


@contextlib.contextmanager
def command(gateway: Shells, tenant: str, *more: str) -> Iterator[Any]:
    """`openclaw terminal` on a terminal of the test's, in a shell that shows what it leaves."""
    line = " ".join([OPENCLAW, "terminal", "--tenant", tenant, *more])
    script = f'before=$(stty -g); {line}; code=$?; [ "$before" = "$(stty -g)" ] && echo same $code'
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", script],
        env={**gateway.env, "TERM": "xterm"},
        dimensions=(31, 97),
        timeout=SECONDS,
        encoding="utf-8",
    )
    try:
        yield child
    finally:
        child.close(force=True)


def ready(child: Any) -> None:
    """Have the shell inside say when it waits, with a prompt of no other's."""
    child.sendline("PS1='READY''-> '")
    child.expect_exact(PROMPT)


def test_a_shell_on_the_command_line(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    with command(gateway, tenant) as child:
        ready(child)
        # An editor that needs the whole screen.
        child.sendline("vi -u NONE note.txt")
        child.expect_exact("note.txt")
        child.send("ihello from vi\x1b:wq\r")
        child.expect_exact(PROMPT)
        child.sendline("cat note.txt; echo $?")
        child.expect("hello from vi\r\n0\r\n")
        # Ctrl-C ends what runs, and not the shell.
        child.sendline("sleep 1000; echo not''here")
        child.expect_exact("sleep")
        gateway.until(lambda: sleeps(gateway))
        child.sendcontrol("c")
        child.expect_exact(PROMPT)
        assert "nothere" not in child.before
        # Job control.
        child.sendline("sleep 1001")
        gateway.until(lambda: sleeps(gateway))
        child.sendcontrol("z")
        child.expect("Stopped.*sleep 1001")
        child.sendline("bg; jobs")
        child.expect(r"Running.*sleep 1001 &")
        child.sendline("fg")
        child.expect("sleep 1001\r\n")
        child.sendcontrol("c")
        child.expect_exact(PROMPT)
        # The size, and word of another one.
        child.sendline("stty size")
        child.expect("31 97\r\n")
        child.sendline("trap 'echo size is $(stty size)' WINCH; echo trap''ped")
        child.expect("trapped\r\n")
        child.expect_exact(PROMPT)  # until then bash may put back the size that it has just read
        child.setwinsize(43, 132)
        child.expect("size is 43 132\r\n")
        child.sendline("exit 7")
        child.expect("same 7\r\n")
    assert gateway.rpc(token, "sandbox.files.get", path="/work/note.txt")["data"].startswith(
        "hello"
    )
    # The token was of this command alone, and the audit says whose it was.
    assert gateway.token_names(tenant) == ["default"]
    (attached,) = gateway.audited(tenant, "terminal.attached")
    assert attached["detail"]["after"]["tokenName"].startswith(f"cli-{os.getuid()}-terminal-")
    created = gateway.audited(tenant, "token.created")[-1]["detail"]["after"]
    assert attached["actor"] == f"token:{created['tokenId']}"
    gateway.until(lambda: gateway.audited(tenant, "terminal.ended"))
    assert gateway.audited(tenant, "terminal.ended")[0]["detail"]["after"]["exitCode"] == 7


def sleeps(gateway: Shells) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(gateway.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if child.cmdline()[:1] == ["sleep"]:
                found.append(child)
    return found


def test_a_command_leaves_a_terminal_and_goes_back(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    with command(gateway, tenant, "--name", "other") as child:
        ready(child)
        child.sendline("cd /tmp; echo was''here")
        child.expect("washere\r\n")
        child.send("\r~.")
        child.expect("left it running; openclaw terminal --tenant [^ ]+ --attach ([0-9a-f]+)")
        found = child.match[1]
        child.expect("same 0\r\n")
    (listed,) = gateway.terminals(token)
    assert (listed["terminalId"], listed["name"], listed["attached"]) == (found, "other", 0)
    shown = gateway.openclaw("terminal", "--tenant", tenant, "--list").stdout
    assert found in shown
    assert "runs" in shown
    with command(gateway, tenant, "--attach", found) as child:
        child.expect("washere\r\n")  # it was kept
        child.sendline("pwd; exit 3")
        child.expect("/tmp\r\n")
        child.expect("same 3\r\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_our_terminal_as_it_was(
    gateway: Shells, number: signal.Signals
) -> None:
    tenant, token = gateway.tenant()
    with command(gateway, tenant) as child:
        ready(child)
        (cli,) = psutil.Process(child.pid).children()
        cli.send_signal(number)
        child.expect(f"same {128 + number}\r\n")
    assert gateway.terminals(token)[0].get("ended") is None
    assert gateway.token_names(tenant) == ["default"]


def test_a_command_line_of_its_own_and_input_from_a_pipe(gateway: Shells) -> None:
    tenant, _ = gateway.tenant()
    script = f"printf 'one\\ntwo\\n' | {OPENCLAW} terminal --tenant {tenant} -- sh -c 'cat; exit 9'"
    with contextlib.closing(
        pexpect.spawn(
            "/bin/sh", ["-c", f"{script}; echo code $?"], env=gateway.env, timeout=SECONDS
        )
    ) as child:
        child.expect_exact("two")
        child.expect_exact("code 9")


def test_a_command_for_nobody(gateway: Shells) -> None:
    refused = gateway.openclaw("terminal", "--tenant", "nobody")
    assert refused.returncode == 1
    assert "nobody" in refused.stderr
    tenant, _ = gateway.tenant()
    refused = gateway.openclaw("terminal", "--tenant", tenant, "--attach", "0" * 16)
    assert refused.returncode == 75
    assert "no such terminal" in refused.stderr


def counted(data: bytes) -> None:
    """Check that lines are all there, each once."""
    lines = data.split(b"\r\n")
    whole = lines[:-1]
    assert [int(line) for line in whole] == list(range(len(whole)))


def test_a_dropped_connection_costs_no_byte(gateway: Shells) -> None:
    _, token = gateway.tenant()
    with terminal(gateway, token, cmd=f'exec python3 -c "{COUNTER}"') as client:
        seen = client.until(lambda data: data.count(b"\n") > 200)
        here, found = client.next, client.id
        client.drop()
    for _ in range(3):
        with terminal(gateway, token, terminalId=found, fromByte=here) as client:
            assert client.told[0]["fromByte"] == here
            seen += client.until(lambda data: data.count(b"\n") > 200)
            here = client.next
            client.drop()
    counted(seen)


@pytest.mark.parametrize("how", ["restart", "kill -9"])
def test_another_worker_costs_no_byte_and_the_client_sees_nothing(
    gateway: Shells, how: str
) -> None:
    tenant, token = gateway.tenant()
    echo = (
        "import os, tty; tty.setraw(0); os.write(1, b'>')\n"
        "while True: os.write(1, os.read(0, 4096))"
    )
    with (
        terminal(gateway, token, cmd=f'exec python3 -c "{COUNTER}"') as counter,
        terminal(gateway, token, cmd=f'python3 -c "{echo}"') as typed,
    ):
        counter.until(lambda data: data.count(b"\n") > 100)
        typed.expect(b">")
        counter.data = b""
        first = counter.until(lambda data: data.endswith(b"\n"))
        generation = gateway.generation(tenant)
        stop = threading.Event()

        def type_on() -> None:
            for number in range(5000):
                if stop.is_set():
                    return
                typed.send(b"%06d\n" % number)
                time.sleep(0.001)

        typing = threading.Thread(target=type_on)
        typing.start()
        try:
            if how == "restart":
                gateway.control("POST", f"/{tenant}/restart", {})
            else:
                gateway.process(f"openclaw: worker {tenant}").kill()
            gateway.until(
                lambda: (
                    gateway.openclaw_json("tenants", "status", tenant)[0].get("generation", 0)
                    > generation
                )
            )
            rest = counter.until(lambda data: data.count(b"\n") > 500)
        finally:
            stop.set()
            typing.join()
        lines = (first + rest).split(b"\r\n")[1:-1]
        numbers = [int(line) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        # What was typed meanwhile has come there once, in order.
        typed.send(b"<end>")
        back = typed.expect(b"<end>").removesuffix(b"<end>").split()
        assert [int(each) for each in back] == list(range(len(back)))
        assert back
        assert [told["type"] for told in (*counter.told, *typed.told)] == ["attached"] * 2


def test_a_terminal_outlives_a_worker_that_is_parked(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    with terminal(gateway, token, cmd="cat") as client:
        client.send(b"before\n")
        client.expect(b"before\r\nbefore\r\n")
        found, here = client.id, client.next
    gateway.until(
        lambda: gateway.control("GET", f"/{tenant}/status")["tenants"][0]["state"] == "parked"
    )
    with terminal(gateway, token, terminalId=found, fromByte=here) as client:
        client.send(b"after\n")
        assert client.expect(b"after\r\nafter\r\n") == b"after\r\nafter\r\n"


def test_a_command_goes_on_when_the_front_is_another(gateway: Shells) -> None:
    tenant, _ = gateway.tenant()
    with command(gateway, tenant) as child:
        ready(child)
        child.sendline("cd /tmp; echo set''-down")
        child.expect("set-down\r\n")
        gateway.process("openclaw: front").kill()
        gateway.until(lambda: front_is_back(gateway))
        child.sendline("pwd; exit 8")
        child.expect("/tmp\r\n")
        child.expect("same 8\r\n")


def front_is_back(gateway: Shells) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return gateway.request("GET", "/readyz").status == 200
    return False


# The command with a token that is exchanged several times a second.
IMPATIENT = """
import sys
from cli import terminal_session
terminal_session.RENEW_SECONDS = 0.3
from cli.main import main
main(prog_name="openclaw")
"""


def test_another_token_costs_no_byte_of_a_command(gateway: Shells) -> None:
    tenant, _ = gateway.tenant()
    echo = (
        "import os, tty; tty.setraw(0); os.write(1, b'>')\n"
        "while (typed := os.read(0, 4096)) != b'.': os.write(1, typed)"
    )
    child: Any = pexpect.spawn(
        sys.executable,
        ["-c", IMPATIENT, "terminal", "--tenant", tenant, "--", "python3", "-c", echo],
        env=gateway.env,
        timeout=SECONDS,
    )
    with contextlib.closing(child):
        child.delaybeforesend = None
        child.expect_exact(">")
        lines = 0
        made = len(gateway.audited(tenant, "token.created"))
        while len(gateway.audited(tenant, "token.created")) < made + 3:
            child.send(b"%06d," % lines)
            child.expect(b"%06d," % lines)
            assert child.before == b"", "nothing is doubled or lost"
            lines += 1
        child.send(b".")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0
    assert gateway.token_names(tenant) == ["default"]


def test_characters_are_whole_as_text_and_bytes_are_bytes(gateway: Shells) -> None:
    _, token = gateway.tenant()
    text = "naïve €uro \U0001f680"
    program = (
        "import os, sys, time, tty; tty.setraw(0); os.write(1, b'>')\n"
        "for byte in sys.stdin.buffer.readline(): os.write(1, bytes([byte])); time.sleep(0.001)\n"
        "os.write(1, bytes([255, 10]))"
    )
    found = gateway.rpc(token, "terminal.spawn", cmd=["python3", "-c", program])["terminalId"]
    with terminal(gateway, token, terminalId=found) as client:
        client.expect(b">")
        for byte in f"{text}\n".encode():
            client.send(bytes([byte]))
        events = list(stream(gateway, token, terminalId=found, fromByte=1))
        assert client.end()["exitCode"] == 0
        assert client.data == f"{text}\n".encode() + b"\xff\n"
    pieces = [data for name, data in events if name == "terminal"]
    assert pieces[0]["type"] == "attached"
    assert "".join(each["data"] for each in pieces[1:]) == f"{text}\n\ufffd\n"
    assert events[-1][0] == "result"
    result = events[-1][1]["result"]
    assert (result["ended"]["exitCode"], result["nextByte"]) == (0, 1 + len(client.data))
    # Any number in the middle of a character gives what is after it.
    whole = gateway.rpc(token, "terminal.attach", terminalId=found, fromByte=0)
    assert whole["data"] == f">{text}\n\ufffd\n"
    raw = gateway.rpc(token, "terminal.attach", terminalId=found, fromByte=4, encoding="base64")
    assert base64.b64decode(raw["dataBase64"]) == client.data[3:]


def stream(gateway: Shells, token: str, **params: Any) -> Iterator[tuple[str, Any]]:
    """Attach over HTTP, as server-sent events."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "terminal.attach", "params": params}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection(gateway.address, timeout=SECONDS)) as http_:
        http_.request("POST", "/rpc", json.dumps(call), {**headers, "Accept": "text/event-stream"})
        name = ""
        for line in http_.getresponse():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def test_a_flood_costs_little_and_others_are_served(gateway: Shells) -> None:
    _, token = gateway.tenant()
    _, other = gateway.tenant()
    gateway.rpc(other, "health")
    with contextlib.ExitStack() as held:
        shells = [held.enter_context(terminal(gateway, token, cmd="yes")) for _ in range(MOST)]
        ours = [
            each for each in psutil.Process(gateway.pid).children() if each.cmdline() != [SPARE]
        ]
        before = {each: each.memory_info().rss for each in ours if each.is_running()}
        # Nobody reads, though it is much more than what all the buffers of a gateway should hold.
        for _ in range(50):
            gateway.rpc(other, "health")
        gateway.until(lambda: max(each["nextByte"] for each in gateway.terminals(token)) > 2**21)
        for each, rss in before.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                assert each.memory_info().rss - rss < 48 * limits.MIB, each.cmdline()
        # One of them ends at once all the same.
        shells[0].send(b"\x03")
        shells[0].data = b""
        assert shells[0].end()["signal"] == signal.SIGINT


ROUTES = ("write", "resize", "close", "attach")


def test_another_tenants_terminal_is_as_one_that_is_not_there(gateway: Shells) -> None:
    _, token = gateway.tenant()
    _, other = gateway.tenant()
    with terminal(gateway, token, cmd="cat") as client:
        more: dict[str, dict[str, Any]] = {"write": {"data": "x"}, "resize": {"cols": 9, "rows": 9}}
        for method in ROUTES:
            replies = [
                gateway.rpc_reply(
                    other, f"terminal.{method}", {"terminalId": each, **more.get(method, {})}
                )
                for each in (client.id, "0" * 16)
            ]
            assert replies[0].status == 404
            assert replies[0].body == replies[1].body
        told = []
        for each in (client.id, "0" * 16):
            with terminal(gateway, other, terminalId=each) as theirs:
                told.append((theirs.told, theirs.end(), theirs.closed_with))
        assert told[0] == told[1]
        assert told[0][2] == 4404
        assert gateway.terminals(other) == []
        client.send(b"mine\n")
        assert client.expect(b"mine\r\nmine\r\n") == b"mine\r\nmine\r\n"


def test_the_end_of_a_token_cuts_it_and_the_terminal_lives_on(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    with terminal(gateway, token, cmd="cat") as client:
        client.send(b"before\n")
        client.expect(b"before\r\nbefore\r\n")
        new = gateway.control("POST", f"/{tenant}/token/rotate", {})["token"]
        began = time.monotonic()
        client.end()
        assert client.closed_with == 1008
        assert time.monotonic() - began < SECONDS
        with terminal(gateway, new, terminalId=client.id, fromByte=client.next) as again:
            again.send(b"after\n")
            assert again.expect(b"after\r\nafter\r\n") == b"after\r\nafter\r\n"


def test_they_end_with_their_tenant(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    with terminal(gateway, token, cmd="sleep 12345") as client:
        gateway.until(lambda: sleeps(gateway))
        gateway.control("POST", f"/{tenant}/suspend", {})
        assert sleeps(gateway) == []
        client.end()
        assert client.closed_with == 1008
        gateway.control("POST", f"/{tenant}/resume", {})
        assert gateway.terminals(token) == []
    (ended,) = gateway.audited(tenant, "terminal.ended")
    assert ended["detail"]["after"]["reason"] == "tenant"
    with terminal(gateway, token, cmd="sleep 12346"):
        gateway.until(lambda: sleeps(gateway))
        gateway.control("DELETE", f"/{tenant}")
        assert sleeps(gateway) == []


def test_there_are_only_so_many_and_the_next_is_told_so(gateway: Shells) -> None:
    _, token = gateway.tenant()
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(terminal(gateway, token, cmd="cat")) for _ in range(MOST)]
        with terminal(gateway, token, cmd="cat") as refused:
            assert refused.told[0]["code"] == "RATE_LIMITED"
            refused.end()
            assert refused.closed_with == 4429
        clients[0].control(type="close")
        assert clients[0].end()["reason"] == "closed"
        with terminal(gateway, token, cmd="exit 4") as client:
            assert client.end()["exitCode"] == 4


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cols": 0}, "cols"),
    ({"cols": 2001}, "cols"),
    ({"rows": -1}, "rows"),
    ({"rows": "24"}, "rows"),
    ({"cmd": ""}, "cmd"),
    ({"cmd": []}, "cmd"),
    ({"cmd": [""]}, "cmd"),
    ({"cmd": ["x"] * 5000}, "cmd"),
    ({"cmd": "x\0y"}, "cmd"),
    ({"cwd": "/etc"}, "cwd"),
    ({"cwd": "/work/../etc"}, "cwd"),
    ({"env": {"LD_PRELOAD": "/work/x.so"}}, "env.LD_PRELOAD"),
    ({"env": {"BASH_ENV": "/work/x"}}, "env.BASH_ENV"),
    ({"name": "../x"}, "name"),
    ({"sandbox": "none"}, "sandbox"),
    ({"shell": "/bin/sh"}, "shell"),
]


def test_what_cannot_be_started_is_refused_by_name_and_nothing_is(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    for params, field in REFUSED:
        reply = gateway.rpc_reply(token, "terminal.spawn", params)
        assert reply.status == 400, (params, reply.body)
        assert reply.json["error"]["data"]["field"].split("[")[0] == field, params
    assert gateway.terminals(token) == []
    assert gateway.audited(tenant, "terminal.opened") == []
    # Nor is anything written to one that has ended.
    spawned = gateway.rpc(token, "terminal.spawn", cmd="true")["terminalId"]
    gateway.until(lambda: "ended" in gateway.terminals(token)[0])
    for method, more in (("write", {"data": "x"}), ("resize", {"cols": 80, "rows": 24})):
        reply = gateway.rpc_reply(token, f"terminal.{method}", {"terminalId": spawned, **more})
        assert (reply.status, reply.json["error"]["data"]["code"]) == (409, "CONFLICT")
    for more in ({}, {"data": "x", "dataBase64": "eA=="}):
        reply = gateway.rpc_reply(token, "terminal.write", {"terminalId": spawned, **more})
        assert reply.json["error"]["data"]["field"] == "data"
    beyond = {"terminalId": spawned, "fromByte": 10}
    assert gateway.rpc_reply(token, "terminal.attach", beyond).status == 400


def test_who_may_only_read_sees_and_does_not_type(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    wanted = {"name": "watcher", "scopes": ["read"]}
    reader = gateway.control("POST", f"/{tenant}/tokens", wanted)["token"]
    with terminal(gateway, reader, cmd="cat") as refused:
        assert refused.told[0]["code"] == "FORBIDDEN"
    with (
        terminal(gateway, token, cmd="cat") as ours,
        terminal(gateway, reader, terminalId=ours.id) as theirs,
    ):
        theirs.send(b"typed by a reader\n")
        assert theirs.word()["code"] == "FORBIDDEN"
        ours.send(b"typed by its owner\n")
        assert b"reader" not in theirs.expect(b"owner\r\ntyped by its owner\r\n")


def test_nothing_is_typed_into_a_terminal_from_inside(gateway: Shells) -> None:
    _, token = gateway.tenant()
    program = (
        "import fcntl, termios\n"
        "for number in (termios.TIOCSTI, 0x541C, termios.TIOCSTI | 1 << 32):\n"
        "    try: fcntl.ioctl(0, number & 0xFFFFFFFF, b'x'); print('did')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    spawned = gateway.rpc(token, "terminal.spawn", cmd=["python3", "-c", program])["terminalId"]
    with terminal(gateway, token, terminalId=spawned, fromByte=0) as client:
        client.end()
        assert client.data == b"1\r\n1\r\n1\r\n"


def test_what_a_program_says_is_in_no_log(gateway: Shells) -> None:
    tenant, token = gateway.tenant()
    marker = "say-it-to-nobody"
    cmd = ["/usr/bin/printf", f"\\033]0;{marker}\\007\\033[2J"]
    spawned = gateway.rpc(token, "terminal.spawn", cmd=cmd)["terminalId"]
    with terminal(gateway, token, terminalId=spawned, fromByte=0) as client:
        client.end()
        assert marker.encode() in client.data
    odd = ["/nothing/\x1b[31m\x9b0m", marker]
    gateway.rpc_reply(token, "terminal.spawn", {"cmd": odd})
    gateway.until(lambda: len(gateway.audited(tenant, "terminal.opened")) == 2)
    for name in ("gateway.log", "audit.jsonl"):
        written = (gateway.state_dir / name).read_bytes()
        assert marker.encode() not in written
        assert b"\x1b" not in written
    assert "\x9b" not in (gateway.state_dir / "audit.jsonl").read_text()
    shown = gateway.openclaw("audit", "show", "--tenant", tenant).stdout
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_a_launcher_that_dies_takes_its_terminals_and_another_one_serves(gateway: Shells) -> None:
    _, token = gateway.tenant()
    with terminal(gateway, token, cmd="sleep 23456") as client:
        gateway.until(lambda: sleeps(gateway))
        (launcher,) = [
            child
            for child in psutil.Process(gateway.pid).children()
            if "launcher" in " ".join(child.cmdline())
        ]
        launcher.kill()
        told = client.end()
        assert told["code"] == "NOT_FOUND"
        gateway.until(lambda: not sleeps(gateway))
    gateway.until(lambda: gateway.rpc_reply(token, "terminal.list", {}).status == 200)
    with terminal(gateway, token, cmd="exit 6") as client:
        assert client.end()["exitCode"] == 6


def test_a_query_is_judged_before_anything_starts(gateway: Shells) -> None:
    _, token = gateway.tenant()
    with pytest.raises(InvalidStatus) as refused, terminal(gateway, token, cols=0, rows=24):
        pass
    assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus) as refused, terminal(gateway, "tk_x_" + "0" * 32):
        pass
    assert refused.value.response.status_code == 401

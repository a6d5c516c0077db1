"""Bad input for sandboxes and terminals: a typed error that names the field, nothing launched."""

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from protocol import limits
from protocol.errors import ErrorCode
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply

INVALID = ErrorCode.INVALID_REQUEST
RAN = ["touch", "/work/ran"]
MANY = {f"V{number}": "x" for number in range(limits.SANDBOX_VARIABLES_MAX + 1)}
LOADERS = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "BASH_ENV", "ENV", "SHELLOPTS", "IFS"),
    *("PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "NODE_OPTIONS", "NODE_PATH", "PERL5OPT"),
    *("RUBYOPT", "JAVA_TOOL_OPTIONS", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH"),
    *("BASH_FUNC_ls%%", "GIT_SSH_COMMAND", "LUA_INIT_5_4", "OPENSSL_CONF"),
)
# What sandbox.run, sandbox.explain and terminal.spawn take alike: what is sent, and the field.
SHARED: list[tuple[dict[str, Any], str]] = [
    *(({"env": {name: "x"}}, "env") for name in LOADERS),
    *(({"env": {name: "x"}}, "env") for name in ("", "1A", "A B", "A=B", "A-B", "é", "A" * 129)),
    ({"env": {"A": "a\0b"}}, "env"),
    ({"env": {"A\0B": "x"}}, "env"),
    ({"env": {"A": 1}}, "env"),
    ({"env": MANY}, "env"),
    ({"env": {"A": "x" * (limits.SANDBOX_ARGUMENT_BYTES_MAX + 1)}}, "env"),
    *(
        ({"cwd": path}, "cwd")
        for path in (
            *("", ".", "work", "../work", "/", "/etc", "/workshop", "/proc/self/root/work"),
            *("/work/..", "/work/../etc", "/work/./x", "/work//x", "/work/", "/tmp/../etc"),
            *("/work/a\0b", "/work/" + "x" * limits.SANDBOX_PATH_BYTES_MAX),
        )
    ),
    *(({"name": name}, "name") for name in ("", "..", "../x", "a/b", "A", "a" * 41, "a\n", "a\0")),
    *(({"sandbox": mode}, "sandbox") for mode in ("chroot", "", "Docker", 1, "docker")),
]
OF_RUNS: list[tuple[dict[str, Any], str]] = [
    ({"image": "nope"}, "image"),
    ({"image": "../x"}, "image"),
    ({"image": "sha256:" + "0" * 64}, "image"),
    *(({"timeoutMs": value}, "timeoutMs") for value in (0, -1, 1.5, "1s", 10**9, 10**400)),
    ({"limits": {"surplus": 1}}, "limits.surplus"),
    *(
        ({"limits": {"memoryBytes": value}}, "limits.memoryBytes")
        for value in (0, -1, 1024, 2**60, 1.5, "64M")
    ),
    *(({"limits": {"cpus": value}}, "limits.cpus") for value in (0, -1, 1e9, "1")),
    *(({"limits": {"pids": value}}, "limits.pids") for value in (0, 3, 2**40, 4.5)),
]
OF_ARGV: list[tuple[dict[str, Any], str]] = [
    ({"argv": []}, "argv"),
    ({"argv": "ls -l"}, "argv"),
    ({"argv": [1]}, "argv"),
    ({"argv": ["a\0b"]}, "argv"),
    ({"argv": [*RAN, "x" * (limits.SANDBOX_ARGUMENT_BYTES_MAX + 1)]}, "argv"),
    ({"argv": [*RAN, *["x"] * limits.SANDBOX_ARGUMENTS_MAX]}, "argv"),
    ({"argv": [*RAN, *["x" * 65_536] * 20]}, "argv"),
    ({"stdin": "%%%", "stdinEncoding": "base64"}, "stdin"),
    ({"stdin": "x", "stdinEncoding": "utf-16"}, "stdinEncoding"),
    ({"stdin": "x\0y"}, "stdin"),
]
OF_TERMINALS: list[tuple[dict[str, Any], str]] = [
    *(({"cols": value}, "cols") for value in (0, -1, limits.TERMINAL_COLUMNS_MAX + 1, 80.5, "80")),
    *(({"rows": value}, "rows") for value in (0, -1, limits.TERMINAL_ROWS_MAX + 1, 10**20)),
    ({"cmd": []}, "cmd"),
    ({"cmd": ["a\0b"]}, "cmd"),
    ({"cmd": 1}, "cmd"),
    ({"cmd": ["x"] * (limits.SANDBOX_ARGUMENTS_MAX + 1)}, "cmd"),
]
BAD = [
    *(("sandbox.run", {"argv": RAN, **bad}, field) for bad, field in SHARED + OF_RUNS + OF_ARGV),
    *(("sandbox.explain", bad, field) for bad, field in SHARED + OF_RUNS),
    ("sandbox.explain", {"tool": "rm"}, "tool"),
    *(("terminal.spawn", {"cmd": RAN, **bad}, field) for bad, field in SHARED + OF_TERMINALS),
]


class Watched:
    """A gateway that allows bubblewrap, and whether anything was launched there."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.token = gateway.create("acme")
        self.sandboxes = gateway.state_dir / "tenants/acme/sandbox"
        gateway.rpc(self.token, "sandbox.run", argv=["true"])
        self.worker = gateway.process("openclaw: worker acme").pid
        self.launcher = gateway.process("openclaw: launcher")

    def launched(self) -> set[int]:
        found = set()
        for child in self.launcher.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "bwrap":
                    found.add(child.pid)
        return found

    def check_nothing_ran(self) -> None:
        listed = self.gateway.rpc(self.token, "sandbox.list")
        assert listed == {"sandboxes": [], "queued": 0}
        assert self.gateway.rpc(self.token, "terminal.list") == {"terminals": []}
        assert not self.launched()
        assert [path.name for path in self.sandboxes.iterdir()] == ["main"]
        assert not list((self.sandboxes / "main").iterdir())
        assert psutil.pid_exists(self.worker)

    def refused(self, method: str, params: object) -> Reply:
        reply = self.gateway.rpc_reply(self.token, method, params)
        assert reply.status != 200, reply.body[:500]
        return reply


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    path = make_state_dir()
    (path / "config.yaml").write_text("sandbox: {allowed: [bubblewrap]}\n")
    try:
        with Gateway(path) as gateway:
            yield Watched(gateway)
    finally:
        remove_tree(path)


def shown(value: object) -> str:
    return json.dumps(value)[:40] if not isinstance(value, str) else value


@pytest.mark.parametrize(("method", "params", "field"), BAD, ids=shown)
def test_it_is_refused_by_name(
    watched: Watched, method: str, params: dict[str, Any], field: str
) -> None:
    error = watched.refused(method, params).json["error"]
    assert (error["code"], error["data"]["code"]) == (INVALID.rpc_code, INVALID.name), error
    named = error["data"]["field"]
    assert named == field or named.startswith((f"{field}.", f"{field}["))
    assert field in error["message"]
    assert str(watched.gateway.state_dir) not in error["message"]


def test_nothing_was_launched_by_any_of_them(watched: Watched) -> None:
    for method, params, _ in BAD:
        watched.refused(method, params)
    watched.check_nothing_ran()


def test_what_is_too_big_is_said_to_be(watched: Watched) -> None:
    ten_megabytes = watched.refused("sandbox.run", {"argv": ["echo", *["x" * 100_000] * 105]})
    assert ten_megabytes.status == 413
    data = base64.b64encode(bytes(limits.SANDBOX_INPUT_BYTES_MAX + 1)).decode()
    params = {"argv": RAN, "stdin": data, "stdinEncoding": "base64"}
    too_much = watched.refused("sandbox.run", params)
    assert (too_much.status, too_much.json["error"]["data"]["field"]) == (413, "stdin")
    watched.check_nothing_ran()


def test_a_terminal_takes_only_what_it_can(watched: Watched) -> None:
    gateway, token = watched.gateway, watched.token
    terminal = {"terminalId": gateway.rpc(token, "terminal.spawn", cmd=["cat"])["terminalId"]}
    assert watched.launched()  # as would be seen of the others
    bad: list[tuple[str, dict[str, Any], str]] = [
        *(("terminal.resize", {"cols": cols, "rows": 24}, "cols") for cols in (0, 2001, -1)),
        *(("terminal.resize", {"cols": 80, "rows": rows}, "rows") for rows in (0, 2001, 1.5)),
        ("terminal.write", {"data": "x" * (limits.TERMINAL_WRITE_BYTES_MAX + 1)}, "data"),
        ("terminal.write", {"dataBase64": "%"}, "dataBase64"),
        ("terminal.write", {"data": "x", "at": -1}, "at"),
    ]
    for method, params, field in bad:
        error = watched.refused(method, {**terminal, **params}).json["error"]
        assert (error["code"], error["data"]["field"]) == (INVALID.rpc_code, field)
    gateway.rpc(token, "terminal.close", **terminal)
    deadline = time.monotonic() + REQUEST_SECONDS
    while any("ended" not in each for each in gateway.rpc(token, "terminal.list")["terminals"]):
        assert time.monotonic() < deadline
    for which in (terminal, {"terminalId": "0" * len(terminal["terminalId"])}):
        for method, params in (
            ("terminal.write", {"data": "x"}),
            ("terminal.resize", {"cols": 80, "rows": 24}),
        ):
            data = watched.refused(method, {**which, **params}).json["error"]["data"]
            assert data["code"] in ("NOT_FOUND", "CONFLICT"), data


def test_what_is_good_still_runs(watched: Watched) -> None:
    assert watched.gateway.rpc(watched.token, "sandbox.run", argv=RAN)["exitCode"] == 0
    assert (watched.sandboxes / "main/ran").exists()
    assert watched.gateway.process("openclaw: worker acme").pid == watched.worker

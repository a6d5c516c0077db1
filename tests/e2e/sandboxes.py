"""Programs that run in sandboxes beside a test."""

import json
import threading
import time
from typing import Any

from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply

# What it sees of itself, as JSON.
LOOK = """
import json, os
mounts = {}
for line in open("/proc/self/mountinfo"):
    _, _, _, _, path, options, *_ = line.split()
    mounts[path] = options.split(",")[0] == "rw"
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "mounts": mounts,
    "environment": dict(os.environ),
    "uid": os.getuid(),
    "cwd": os.getcwd(),
    "capabilities": int(status["CapBnd"], 16) | int(status["CapEff"], 16),
    "newPrivileges": int(status["NoNewPrivs"]) == 0,
    "seccomp": int(status["Seccomp"]),
    "interfaces": os.listdir("/sys/class/net") if os.path.exists("/sys/class/net") else [],
}))
"""


def running(gateway: Gateway, token: str) -> list[dict[str, Any]]:
    """What runs for a tenant now, beside its terminals."""
    listed: list[dict[str, Any]] = gateway.rpc(token, "sandbox.list")["sandboxes"]
    return [each for each in listed if each["kind"] == "run"]


def wait_running(gateway: Gateway, token: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many run for a tenant."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while len(found := running(gateway, token)) != count:
        assert time.monotonic() < deadline, found
    return found


class Run(threading.Thread):
    """A program that is waited for beside the test."""

    def __init__(
        self, gateway: Gateway, token: str, *argv: str, refused: bool = False, **given: Any
    ) -> None:
        super().__init__(daemon=True)
        self._refused = refused
        self._gateway, self._token = gateway, token
        self._params = {"argv": list(argv), "timeoutMs": 60_000, **given}
        self.result: dict[str, Any] = {}
        self.reply: Reply
        self.start()

    def run(self) -> None:
        try:
            self.reply = self._gateway.rpc_reply(self._token, "sandbox.run", self._params)
        except OSError:
            assert self._refused  # the gateway was ended
            return
        if not self._refused:
            self.result = self.reply.json["result"]


def check_explained(gateway: Gateway, token: str, mode: str) -> None:
    """Hold what `sandbox.explain` says against what a program finds."""
    asked = {"env": {"GREETING": "hi"}, "name": "lab", "cwd": "/tmp", "sandbox": mode}
    explained = gateway.rpc(token, "sandbox.explain", **asked)
    ran = gateway.rpc(token, "sandbox.run", argv=["python3", "-c", LOOK], **asked)
    assert ran["exitCode"] == 0, ran
    found = json.loads(ran["stdout"])
    profile = {name: each["value"] for name, each in explained["profile"].items()}
    assert profile["mode"] == ran["mode"] == mode
    environment = {name: each["value"] for name, each in explained["environment"].items()}
    assert environment.items() <= found["environment"].items()
    # What the C library and Python add by themselves.
    assert found["environment"].keys() - environment.keys() <= {"PWD", "LC_CTYPE"}
    assert explained["environment"]["GREETING"]["source"] == "call"
    assert (found["uid"], found["cwd"]) == (profile["uid"], profile["cwd"])
    assert (found["capabilities"], profile["capabilities"]) == (0, "none")
    assert found["newPrivileges"] is profile["newPrivileges"] is False
    assert (found["seccomp"], profile["seccomp"]) == (2, "allow-list")
    assert (found["interfaces"], profile["network"]) == ([], "none")
    told = {mount["path"]: mount.get("writable", False) for mount in explained["mounts"]}
    for path, writable in found["mounts"].items():
        if path.endswith("/docker-init") and not writable:
            continue  # the engine's own, which reaps
        # Each is one that is told of, or within one.
        above = max((each for each in told if is_in(path, each)), key=len)
        assert above != "/" or path == "/", path
        if path == above and path not in ("/proc", "/dev"):  # there names cannot be made
            assert writable is told[path], path
    assert {path for path, writable in told.items() if writable} <= found["mounts"].keys()
    assert told["/work"] is explained["usable"] is True


def is_in(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")

"""`/bin/true` through the whole path against the same bwrap by itself, in turn; many at once."""

import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, Final

from protocol import environment, launching
from scripts.benchmark import fleet
from supervisor.launcher import bubblewrap, bwrap, policy
from supervisor.launcher.engine import Launch
from supervisor.launcher.stem import memory_file
from tests import dockerd
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

BWRAP: Final = bwrap.find().path
ARGV: Final = ("/bin/true",)
WARM_UP: Final = 10
SAMPLES_AT_ONCE: Final = 20
AT_ONCE: Final = 10
TENANTS: Final = 10
MANY: Final = 100
REFILL_SECONDS: Final = 2.0


def figures(samples: int) -> dict[str, Any]:
    """Measure: one after another, ten at once, and a hundred at once over ten tenants."""
    state_dir = make_state_dir()
    try:
        with Gateway(state_dir) as gateway:
            tokens = [gateway.create(f"sandbox-{number}") for number in range(TENANTS)]
            return {
                "one_by_one": _one_by_one(gateway, tokens[0], samples),
                f"{AT_ONCE}_at_once": _at_once(gateway, tokens),
                f"{MANY}_over_{TENANTS}_tenants": _many(gateway, tokens),
            }
    finally:
        remove_tree(state_dir)


def docker_figures(samples: int) -> dict[str, Any]:
    """Measure under Docker, with a container ready, against a bare `docker run --rm` in turn."""
    if not dockerd.can_be_had():
        return {"skipped": "a Docker daemon is started by root alone"}
    state_dir = make_state_dir()
    try:
        with dockerd.available() as host:
            image = dockerd.load_image(host)
            docker = {"host": host, "images": {"base": image}, "warm": 1}
            (state_dir / "config.yaml").write_text(json.dumps({"sandbox": {"docker": docker}}))
            with Gateway(state_dir) as gateway:
                return _under_docker(gateway, host, image, samples)
    finally:
        remove_tree(state_dir)


def _under_docker(gateway: Gateway, host: str, image: str, samples: int) -> dict[str, Any]:
    caller = _Caller(gateway, gateway.create("docker"), sandbox="docker")
    command = ["docker", "--host", host, "run", "--rm", "--network=none", image, *ARGV]
    cold = caller.run()
    ours, bare = [], []
    for _ in range(samples):
        time.sleep(REFILL_SECONDS)  # the next container is made ready meanwhile
        ours.append(caller.run())
        time.sleep(REFILL_SECONDS)
        started = time.perf_counter()
        subprocess.run(command, check=True)
        bare.append(time.perf_counter() - started)
    return {
        "cold_ms": round(cold * 1000, 1),
        "warm": fleet.quantiles_ms(ours),
        "bare_docker_run": fleet.quantiles_ms(bare),
        "p50_ratio": round(statistics.median(ours) / statistics.median(bare), 3),
    }


class _Caller:
    """One kept connection."""

    def __init__(self, gateway: Gateway, token: str, **params: str) -> None:
        self._connection = HTTPConnection(gateway.address)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        asked = {"argv": ARGV, **params}
        call = {"jsonrpc": "2.0", "id": 1, "method": "sandbox.run", "params": asked}
        self._body = json.dumps(call)

    def run(self) -> float:
        """Run once; gives the seconds it took."""
        started = time.perf_counter()
        self._connection.request("POST", "/rpc", self._body, self._headers)
        answer = json.loads(self._connection.getresponse().read())
        seconds = time.perf_counter() - started
        if answer["result"]["exitCode"] != 0:
            raise AssertionError(answer)
        return seconds


def _one_by_one(gateway: Gateway, token: str, samples: int) -> dict[str, Any]:
    caller = _Caller(gateway, token)
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(WARM_UP):
            caller.run()
            _bare(directory)
        for _ in range(samples):
            ours.append(caller.run())
            bare.append(_bare(directory))
    return {
        "gateway": fleet.quantiles_ms(ours),
        "bare_bwrap": fleet.quantiles_ms(bare),
        "p50_ratio": round(statistics.median(ours) / statistics.median(bare), 3),
    }


def _bare(directory: str) -> float:
    """Start bwrap with our arguments and policy and nothing around it; gives the seconds."""
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    launch = Launch(
        sandbox_id="",
        tenant="",
        uid=os.geteuid(),
        gid=os.getegid(),
        argv=ARGV,
        env=dict(environment.BASE),
        cwd=launching.WORK,
        name="",
        directory=opened,
        image=None,
        caps=launching.Caps(),
        file_bytes=resource.RLIM_INFINITY,
        cgroup=None,
        tenant_cgroup=None,
        stem=None,
        stdio=None,
        terminal=None,
    )
    made = bubblewrap.arguments(BWRAP, launch, policy.compiled())
    reader, writer = os.pipe()
    given = [writer, opened, *map(memory_file, made.files)]
    try:
        actions: list[Any] = [
            (os.POSIX_SPAWN_DUP2, each, 100 + index) for index, each in enumerate(given)
        ]
        actions += [(os.POSIX_SPAWN_DUP2, 100 + index, 3 + index) for index in range(len(given))]
        actions += [(os.POSIX_SPAWN_CLOSE, 100 + index) for index in range(len(given))]
        started = time.perf_counter()
        pid = os.posix_spawn(made.argv[0], made.argv, {}, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - started
    finally:
        for descriptor in (reader, *given):
            os.close(descriptor)
    if status:
        raise AssertionError(status)
    return seconds


def _at_once(gateway: Gateway, tokens: list[str]) -> dict[str, Any]:
    callers = [_Caller(gateway, token) for token in tokens[:AT_ONCE]]

    def some(caller: _Caller) -> list[float]:
        caller.run()
        return [caller.run() for _ in range(SAMPLES_AT_ONCE)]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return fleet.quantiles_ms([one for each in pool.map(some, callers) for one in each])


def _many(gateway: Gateway, tokens: list[str]) -> dict[str, Any]:
    callers = [_Caller(gateway, tokens[number % TENANTS]) for number in range(MANY)]
    with ThreadPoolExecutor(MANY) as pool:
        started = time.perf_counter()
        seconds = list(pool.map(_Caller.run, callers))
        whole = time.perf_counter() - started
    return {**fleet.quantiles_ms(seconds), "all_ms": round(whole * 1000, 1), "failed": 0}

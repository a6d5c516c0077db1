"""Every number of the system call table under both modes' filter: what passes is what is written.

No call is made: see `marking`.
"""

import io
import json
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest

from supervisor.launcher import policy
from tests import dockerd as daemon
from tests.attack import calls, marking
from tests.bpf import number

HERE = Path(__file__).parent
TRIES = [each for each in calls.tries(marking.ARGUMENTS) if number(each[0]) >= 0]
INPUT = json.dumps([(number(call), arguments) for call, arguments in TRIES]).encode()


def walker(folder: Path) -> Path:
    """What runs in a sandbox, in a directory for it."""
    inside = folder / "tests" / "attack"
    inside.mkdir(parents=True)
    for name in ("marking.py", "sandbox_walker.py"):
        shutil.copy(HERE / name, inside)
    return inside / "sandbox_walker.py"


def check(answer: Any) -> None:
    named = {number(call): call for call in calls.SANDBOXES | set(calls.SANDBOXES_DECIDE)}
    refused = {number(call) for call in calls.SANDBOXES_REFUSED}
    for n, verdict in ((int(n), verdict) for n, verdict in answer["calls"].items()):
        if n in named:
            decides = calls.SANDBOXES_DECIDE.get(named[n])
            passes = decides is None or decides(())
            assert verdict == ("passes" if passes else "EPERM"), named[n]
        elif n in refused:
            assert verdict == "EPERM", n
        else:  # none, or one between two that no machine of this kind has
            assert verdict == "ENOSYS" or (verdict == "EPERM" and 336 < n < 424), n
    for (call, arguments), verdict in zip(TRIES, answer["tries"], strict=True):
        passes = calls.SANDBOXES_DECIDE[call](arguments)
        assert verdict == ("passes" if passes else "EPERM"), (call, arguments)
    if platform.machine() == "x86_64":
        assert answer["x32"] == answer["i386"] == [-signal.SIGSYS]


def test_under_bubblewrap(state_dir: Path) -> None:
    program = state_dir / "policy"
    program.write_bytes(policy.compiled())
    script = walker(state_dir)
    with program.open("rb") as file:
        walk = subprocess.run(
            [
                *(sys.executable, "-I", str(HERE / "marking.py")),
                *("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--seccomp", str(file.fileno())),
                *("/usr/bin/python3", str(script)),
            ],
            input=INPUT,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
            check=True,
        )
    check(json.loads(walk.stdout))


@pytest.mark.docker
def test_under_docker(dockerd: str, state_dir: Path) -> None:
    walker(state_dir)
    (state_dir / "input").write_bytes(INPUT)
    state_dir.chmod(0o777)  # a log of the engine's may break a long line in two
    client = docker.DockerClient(base_url=dockerd)
    try:
        image = empty_image(client)
        client.containers.run(
            image,
            [
                "/bin/sh",
                "-c",
                "python3 /work/tests/attack/sandbox_walker.py < /work/input > /work/answer",
            ],
            runtime=daemon.MARKED,
            security_opt=["no-new-privileges", f"seccomp={policy.docker_profile()}"],
            cap_drop=["ALL"],
            user="12345:12345",
            network_mode="none",
            volumes=[f"{state_dir}:/work", "/usr:/usr:ro"],
            remove=True,
        )
    finally:
        client.close()
    check(json.loads((state_dir / "answer").read_bytes()))


def empty_image(client: Any) -> str:
    """An image of the places where this machine's /usr is seen."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("usr", "proc", "sys", "dev", "tmp", "work"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    answer = client.api.import_image_from_data(buffer.getvalue(), repository="walk")
    return str(json.loads(answer.splitlines()[-1])["status"])

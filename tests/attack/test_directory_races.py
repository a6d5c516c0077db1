"""What is mounted at /work is the tenant's own directory, whatever its names do meanwhile.

While sandboxes are started, a program with the tenant's uid has a directory on the way there and
a link to somewhere else change places. What the link leads to holds a marker: no sandbox may see
it, or leave anything beside it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply

SWAPPER = Path(__file__).with_name("name_swapper.py")
MARK = "not for any sandbox of acme"
LAUNCHES = {"bubblewrap": 40, "docker": 24}
ROUNDS_MAX = 10
AT_ONCE = 4
# Says what is here, and leaves something here.
INSIDE = "cat marker main/marker sessions/marker; ls; : > planted"


class Scene:
    """A tenant that attacks, and what it must not reach."""

    def __init__(self, gateway: Gateway, mode: str) -> None:
        self.gateway = gateway
        self.mode = mode
        self.token = gateway.create("acme")
        globex = gateway.create("globex")
        gateway.rpc(globex, "sandbox.files.put", path="marker", data=MARK)
        tenants = gateway.state_dir / "tenants"
        self.home = tenants / "acme"
        # Where no mode of a file stands in the way, nor another uid.
        self.outside = gateway.state_dir / "outside"
        self.guarded = (
            self.outside / "main",
            self.home / "sessions",
            tenants / "globex/sandbox/main",
        )
        for folder in self.guarded[:2]:
            folder.mkdir(exist_ok=True, parents=True)
            folder.chmod(0o777)
            (folder / "marker").write_text(MARK)
            (folder / "marker").chmod(0o666)
        self.before = self.guarded_files()

    def guarded_files(self) -> list[list[str]]:
        return [sorted(path.name for path in folder.iterdir()) for folder in self.guarded]

    def launch(self, name: str) -> Reply:
        params = {"argv": ["sh", "-c", INSIDE], "name": name, "sandbox": self.mode}
        return self.gateway.rpc_reply(self.token, "sandbox.run", params)

    @contextmanager
    def swapped(self, *names: str) -> Iterator[list[int]]:
        """Have two names change places in the block; how often is told after it."""
        uid = self.home.stat().st_uid
        counts: list[int] = []
        with subprocess.Popen(
            [sys.executable, SWAPPER, str(uid), self.home, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as swapper:
            assert swapper.stdout is not None
            assert swapper.stdout.readline() == "swaps\n"
            try:
                yield counts
            finally:
                out, _ = swapper.communicate(timeout=REQUEST_SECONDS)
            counts.append(int(out))


@pytest.fixture(
    scope="module", params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)]
)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    path = make_state_dir()
    if request.param == "docker":
        host, image = (request.getfixturevalue(name) for name in ("dockerd", "docker_image"))
        docker = {"host": host, "images": {"base": image}, "warm": 0}
        (path / "config.yaml").write_text(json.dumps({"sandbox": {"docker": docker}}))
    try:
        with Gateway(path) as gateway:
            yield Scene(gateway, request.param)
    finally:
        remove_tree(path)


# Two names that change places, a link, and where it leads; the names are below the tenant's
# directory, each attack has its own.
ATTACKS = {
    "the sandbox, with another tenant's": (
        *("sandbox/one", "sandbox/one-link"),
        *("sandbox/one-link", "{tenants}/globex/sandbox/main"),
    ),
    "the sandbox, with what everybody may read": (
        *("sandbox/two", "sandbox/two-link"),
        *("sandbox/two-link", "{outside}/main"),
    ),
    "the sandbox, with its tenant's sessions": (
        *("sandbox/three", "sandbox/three-link"),
        *("sandbox/three-link", "../sessions"),
    ),
    "what is above it": ("sandbox", "sandbox-link", "sandbox-link", "{outside}"),
    "what is above it, with one that holds a link": (
        *("sandbox", "decoy"),
        *("decoy/main", "{outside}/main"),
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_that_change_places_redirect_nothing(scene: Scene, attack: str) -> None:
    places = {"tenants": scene.home.parent, "outside": scene.outside}
    names = [name.format(**places) for name in ATTACKS[attack]]
    name = names[0].partition("/")[2] or "main"
    assert scene.launch(name).status == 200  # it is there
    launches = LAUNCHES[scene.mode]
    started: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with scene.swapped(*names) as counts, ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS_MAX):
            for reply in pool.map(scene.launch, [name] * launches):
                if reply.status == 200:
                    started.append(reply.json["result"])
                else:
                    refused.append(reply.json["error"])
            if refused and any(result["exitCode"] == 0 for result in started):
                break  # both sides of the swap were met
    for result in started:
        assert MARK not in result["stdout"] + result["stderr"]
        if result["exitCode"] != 0:
            # bwrap found something else at its name than it was given, and ran nothing.
            assert (result["exitCode"], result["stdout"]) == (127, "")
            assert result["stderr"].startswith("bwrap: "), result
    assert any(result["exitCode"] == 0 for result in started)
    assert refused
    for error in refused:
        assert (error["data"]["code"], error["data"].get("field")) == ("CONFLICT", "name"), error
    assert counts[0] > launches
    assert scene.guarded_files() == scene.before
    assert scene.gateway.rpc(scene.token, "sandbox.list") == {"sandboxes": [], "queued": 0}

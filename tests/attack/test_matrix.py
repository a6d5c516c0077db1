"""Every attack against every configuration of the jail: what happens is what its table says.

A configuration is some of the walls alone. Root has a uid for each tenant, an ordinary user only
namespaces; the others show what each wall is worth without the rest. Where system calls are not
filtered each attack has a worker of its own, as one that works may leave another process behind.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.attack import attacks, harness
from tests.attack.attacks import LANDLOCK, NAMESPACES, ROOT, SECCOMP, UID
from tests.conftest import make_state_dir, remove_tree

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")

ALWAYS = frozenset((attacks.CAPABILITIES, attacks.NOT_DUMPABLE, attacks.LIMITS, attacks.ZYGOTE))
WALLS = frozenset((UID, NAMESPACES, ROOT, LANDLOCK, SECCOMP))
SYSTEM_ONLY = ("/dev/urandom", "/usr")
ENDED = "worked: it is another program now"


class Configuration(NamedTuple):
    """Some of the walls; the other steps of the jail are always taken."""

    walls: frozenset[str]

    @property
    def left_out(self) -> list[str]:
        return [step for step in (LANDLOCK, SECCOMP) if step not in self.walls]

    @property
    def owner(self) -> tuple[int, int] | None:
        """Of all tenants, unless each has a uid of its own."""
        shared = (harness.UID_FIRST,) * 2 if harness.ROOT else (os.geteuid(), os.getegid())
        return None if UID in self.walls else shared

    @property
    def jail(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if NAMESPACES not in self.walls:
            changes |= {"namespaces": False, "readable": SYSTEM_ONLY}
        if self.owner is not None:
            changes |= {"uid": self.owner[0], "gid": self.owner[1]}
        return changes

    def worked(self) -> set[str]:
        """The attacks that nothing here stops."""
        here = self.walls | ALWAYS
        return {name for name, each in attacks.ALL.items() if not each.stopped_by & here}


def configuration(name: str, *walls: str, root: bool = True, user: bool = True) -> Any:
    marks = [pytest.mark.root] if not user else [pytest.mark.user] if not root else []
    return pytest.param(Configuration(frozenset(walls)), id=name, marks=marks)


CONFIGURATIONS = [
    configuration("uid only", UID, user=False),
    configuration("namespaces only", NAMESPACES, ROOT),
    configuration("uid, Landlock and seccomp", UID, LANDLOCK, SECCOMP, user=False),
    configuration("root's but Landlock", UID, NAMESPACES, ROOT, SECCOMP, user=False),
    configuration("root's but seccomp", UID, NAMESPACES, ROOT, LANDLOCK, user=False),
    configuration("all of root's", UID, NAMESPACES, ROOT, LANDLOCK, SECCOMP, user=False),
    configuration("a user's but Landlock", NAMESPACES, ROOT, SECCOMP),
    configuration("a user's but seccomp", NAMESPACES, ROOT, LANDLOCK, root=False),
    configuration("all of a user's", NAMESPACES, ROOT, LANDLOCK, SECCOMP),
]


class Field:
    """A zygote, a state root, and a neighbour that is there to be attacked."""

    def __init__(self, zygote: harness.Zygote, state: Path, chosen: Configuration) -> None:
        self.zygote = zygote
        self.state = state
        self.chosen = chosen
        self.gateway = socket.create_server(("127.0.0.1", 0))
        self.victim = self._new_victim()

    def _new_victim(self) -> harness.Worker:
        victim = self.zygote.spawn(
            harness.worker_spec(self.state, "globex", **self.chosen.jail),
            harness.order(self.state, "wait_to_be_told"),
        )
        victim.wait_ready()
        return victim

    def attack(self, *names: str) -> dict[str, str]:
        """What becomes of attacks by one worker, one after another."""
        own = self.state / "tenants" / "acme"
        own.chmod(0o700)
        for entry in own.iterdir():
            entry.unlink()
        if os.waitpid(self.victim.pid, os.WNOHANG)[0]:
            self.victim.reaped = 0
            self.victim = self._new_victim()
        worker = self.zygote.spawn(
            harness.worker_spec(self.state, "acme", **self.chosen.jail),
            harness.order(
                self.state,
                names=names,
                neighbour_pid=self.victim.pid,
                port=self.gateway.getsockname()[1],
            ),
        )
        report: dict[str, str] = worker.report_or_none() or dict.fromkeys(names, ENDED)
        self.zygote.end(worker)
        return report


@pytest.fixture
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    chosen: Configuration = request.param
    state = make_state_dir()
    harness.make_state(state, "acme", "globex", owner=chosen.owner)
    with harness.attackers(skip=chosen.left_out) as zygote:
        made = Field(zygote, state, chosen)
        with made.gateway:
            yield made
    remove_tree(state)


@pytest.mark.parametrize("field", CONFIGURATIONS, indirect=True)
def test_what_works_is_what_no_wall_stops(field: Field) -> None:
    filtered = SECCOMP in field.chosen.walls
    outcomes: dict[str, str] = {}
    for names in [list(attacks.ALL)] if filtered else [[name] for name in attacks.ALL]:
        outcomes |= field.attack(*names)
    worked = {name for name, outcome in outcomes.items() if outcome.startswith("worked")}
    expected = field.chosen.worked()
    varying = {name for name in expected if attacks.ALL[name].varies}
    assert worked - varying == expected - varying, {
        name: outcomes[name] for name in (worked ^ expected) - varying
    }
    assert (field.state / "tenants/globex/secret").read_text() == "globex's"
    assert os.waitpid(field.victim.pid, os.WNOHANG) == (0, 0), "the neighbour lives"
    if filtered:
        refusals = {
            outcomes[name] for name, each in attacks.ALL.items() if SECCOMP in each.stopped_by
        }
        assert refusals == {"EPERM", "ENOSYS"}
        assert harness.listing(field.state / "tenants/acme") == ["own"]


def test_every_wall_stops_something_alone() -> None:
    """Without it, the others being there, at least one attack would work."""
    everything = WALLS | {attacks.LIMITS, attacks.CAPABILITIES}
    for wall in (ROOT, LANDLOCK, SECCOMP, attacks.LIMITS):
        assert any(not each.stopped_by & (everything - {wall}) for each in attacks.ALL.values()), (
            wall
        )

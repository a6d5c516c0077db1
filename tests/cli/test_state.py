import os
from pathlib import Path

import apsw
import pytest

from cli.exits import ExitCode
from tests.cli.command import Command
from tests.supervisor.scripts import line_of, running

LOCKED = """
import sys
from pathlib import Path
from supervisor.state import StateRoot
state = StateRoot(Path(sys.argv[1]))
state.prepare()
lock = state.acquire()
lock.announce(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
"""


# --- config check


def test_config_check_says_what_it_found(openclaw: Command) -> None:
    file = openclaw.state_dir / "config.yaml"
    missing = openclaw("config", "check")
    assert missing == (0, f"{file} does not exist: every key has its default\n", "")
    assert not openclaw.state_dir.exists(), "to check is not to change"
    openclaw.state_dir.mkdir()
    file.write_text("gateway: {port: 1234}")
    assert openclaw("config", "check") == (0, f"{file} is good\n", "")
    assert openclaw("config", "check", "--json").json() == {
        "path": str(file),
        "exists": True,
        "valid": True,
    }


def test_a_bad_config_is_named_by_every_command(openclaw: Command) -> None:
    openclaw.state_dir.mkdir()
    (openclaw.state_dir / "config.yaml").write_text("gateway: {prot: 1}")
    for command in (["config", "check"], ["tenants", "list", "--json"], ["gateway"]):
        said = openclaw(*command).refused(ExitCode.CONFIGURATION)
        assert "`prot` - at `$.gateway`" in said
    assert [path.name for path in openclaw.state_dir.iterdir()] == ["config.yaml"]


# --- state directories


def test_a_state_directory_that_cannot_be_is_named(openclaw: Command) -> None:
    where = "/dev/null/state"
    said = openclaw("tenants", "list", OPENCLAW_STATE_DIR=where).refused(ExitCode.CONFIGURATION)
    assert where in said
    assert openclaw("gateway", OPENCLAW_STATE_DIR=where).refused(ExitCode.CONFIGURATION) == said


@pytest.mark.root
def test_as_root_a_directory_that_tenants_cannot_reach_is_named(openclaw: Command) -> None:
    closed = openclaw.state_dir / "closed"
    closed.mkdir(mode=0o700, parents=True)
    for command in (["tenants", "create", "acme"], ["gateway"]):
        said = openclaw(*command, OPENCLAW_STATE_DIR=str(closed / "state"))
        assert f"{closed} cannot be passed by other users" in said.err
        assert said.code != 0


def test_the_umask_decides_nothing(openclaw: Command) -> None:
    before = os.umask(0o077)
    try:
        assert openclaw("tenants", "create", "acme").code == 0
    finally:
        os.umask(before)
    through = 0o711 if os.geteuid() == 0 else 0o700
    for path in (openclaw.state_dir, openclaw.state_dir / "tenants"):
        assert path.stat().st_mode & 0o777 == through


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage\n" * 1000)


def newer(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA user_version=1000")
    db.close()


def test_files_that_cannot_be_used_are_left_alone_and_named(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme")
    for name, spoil, said in (
        ("registry.sqlite", newer, "schema 1000"),
        ("registry.sqlite", garbage, "registry.sqlite cannot be opened"),
        ("audit.jsonl", garbage, "audit.jsonl cannot be read"),
    ):
        file = openclaw.state_dir / name
        before = file.read_bytes()
        spoil(file)
        spoilt = file.read_bytes()
        assert said in openclaw("tenants", "list").refused()
        assert file.read_bytes() == spoilt
        file.write_bytes(before)
    assert openclaw("tenants", "list", "--json").json()[0]["tenantId"] == "acme"


# --- somebody else holds it


def test_a_gateway_that_does_not_answer_is_said(openclaw: Command) -> None:
    with running(LOCKED, openclaw.state_dir, "http://127.0.0.1:1") as holder:
        assert line_of(holder) == "held"
        assert "start the gateway once" in openclaw("tenants", "list").refused()
        said = openclaw("tenants", "list", OPENCLAW_ADMIN_KEY="ak_0123456789abcdef")
        assert "127.0.0.1:1 does not answer" in said.refused(ExitCode.TRY_LATER)
        said = openclaw("tenants", "list", OPENCLAW_ADMIN_KEY="kurz")
        assert "OPENCLAW_ADMIN_KEY is no admin key" in said.refused()
        second = openclaw("gateway").refused(ExitCode.TRY_LATER)
        assert f"held by process {holder.pid}" in second


# --- help


def test_help_and_version_need_no_state(openclaw: Command) -> None:
    said = openclaw("--help")
    assert said.code == 0
    for command in ("config", "gateway", "tenants"):
        assert f"\n  {command} " in said.out
    assert openclaw("tenants", "create", "-h").out.startswith("Usage: openclaw tenants create ")
    assert openclaw("--version").out.startswith("openclaw, version ")
    assert not openclaw.state_dir.exists()

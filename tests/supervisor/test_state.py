import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.names import digest
from supervisor.state import LockedError, StateError, StateRoot, default_root
from tests.supervisor.scripts import line_of, running, tell

ROOT = os.geteuid() == 0
PASSED_THROUGH = 0o711 if ROOT else 0o700

HOLD = """
import sys
from pathlib import Path
from supervisor.state import StateRoot
with StateRoot(Path(sys.argv[1])).acquire() as lock:
    lock.announce(sys.argv[2])
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""

MINT = """
import sys
from pathlib import Path
from supervisor.state import StateRoot
state = StateRoot(Path(sys.argv[1]))
print("there", flush=True)
sys.stdin.readline()
print(state.mint_admin_key().hex(), flush=True)
"""


@pytest.fixture
def state(state_dir: Path) -> StateRoot:
    root = StateRoot(state_dir / "state")
    root.prepare()
    return root


@pytest.fixture
def strict_umask() -> Iterator[None]:
    umask = os.umask(0o077)
    yield
    os.umask(umask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- where it is


def test_the_environment_names_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENCLAW_STATE_DIR", "/some/where")
    assert default_root() == Path("/some/where")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCLAW_STATE_DIR", "below/here")
    assert default_root() == tmp_path / "below/here"


def test_without_it_root_and_users_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in (None, ""):
        if nothing is None:
            monkeypatch.delenv("OPENCLAW_STATE_DIR", raising=False)
        else:
            monkeypatch.setenv("OPENCLAW_STATE_DIR", nothing)
        monkeypatch.setenv("HOME", "/home/of/mine")
        assert default_root() == Path("/var/lib/openclaw" if ROOT else "/home/of/mine/.openclaw")


@pytest.mark.root
def test_a_user_without_a_home_is_told_what_to_set() -> None:
    code = """
from supervisor import state
try: state.default_root()
except state.StateError as error: print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={},
        user=1_899_999_999,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OPENCLAW_STATE_DIR" in said.stdout


# --- what is made


def test_directories_are_made_for_those_who_need_them(state_dir: Path, strict_umask: None) -> None:
    state = StateRoot(state_dir / "new" / "newer" / "state")
    state.prepare()
    made = [state.tenants, state.path, *state.path.parents[:2]]
    assert [mode(path) for path in made] == [PASSED_THROUGH] * 4
    assert os.umask(0o077) == 0o077, "the umask was not put back"
    state.prepare()


def test_what_is_there_already_keeps_its_mode(state_dir: Path) -> None:
    path = state_dir / "state"
    path.mkdir()
    path.chmod(0o751)
    StateRoot(path).prepare()
    assert mode(path) == 0o751


@pytest.mark.root
@pytest.mark.parametrize("closed", ["closed", "closed/state", "closed/state/tenants"])
def test_root_refuses_a_directory_that_tenants_cannot_reach_by_name(
    state_dir: Path, closed: str
) -> None:
    state = StateRoot(state_dir / "closed" / "state")
    state.prepare()
    (state_dir / closed).chmod(0o750)
    with pytest.raises(StateError, match=f"^{state_dir / closed} cannot be passed"):
        state.prepare()


@pytest.mark.root
def test_a_link_does_not_hide_what_tenants_cannot_reach(state_dir: Path) -> None:
    hidden = state_dir / "hidden"
    hidden.mkdir(0o700)
    (hidden / "state").mkdir()
    link = state_dir / "link"
    link.symlink_to(hidden / "state")
    with pytest.raises(StateError, match=f"^{hidden} cannot be passed"):
        StateRoot(link).prepare()


def test_a_root_that_cannot_be_made_is_named(state_dir: Path) -> None:
    file = state_dir / "file"
    file.write_text("")
    with pytest.raises(StateError, match=f"^{file}.* cannot be made: .*OPENCLAW_STATE_DIR"):
        StateRoot(file / "state").prepare()
    with pytest.raises(StateError, match=f"^{file}.* cannot be made"):
        StateRoot(file).prepare()


def test_no_other_name_than_a_tenants_becomes_a_path(state: StateRoot) -> None:
    assert state.tenant_directory("acme") == state.tenants / "acme"
    for name in ("..", ".", "", "a/b", "/etc", "a\0", "a\n", "A", "a" * 41, ".new-a"):
        with pytest.raises(ValueError, match="not a tenant id"):
            state.tenant_directory(name)


# --- who holds it


def test_one_process_holds_it_at_a_time_and_says_where_it_serves(state: StateRoot) -> None:
    with running(HOLD, state.path, "http://127.0.0.1:1") as holder:
        assert line_of(holder) == "held"
        # To wait would be of no use: it serves.
        with pytest.raises(LockedError, match=f"process {holder.pid}") as locked:
            state.acquire(wait_seconds=600)
        assert locked.value.holder.pid == holder.pid
        assert locked.value.holder.url == "http://127.0.0.1:1"
        tell(holder)
        assert line_of(holder) == "released"
        with state.acquire():
            pass


def test_a_holder_that_does_not_serve_is_waited_for(state: StateRoot) -> None:
    with running(HOLD, state.path, "") as holder:
        assert line_of(holder) == "held"
        with pytest.raises(LockedError) as locked:
            state.acquire()
        assert locked.value.holder.url == ""
        with pytest.raises(LockedError):
            state.acquire(wait_seconds=0.05)
        tell(holder)
        state.acquire(wait_seconds=30).release()


def test_a_holder_that_is_killed_lets_go(state: StateRoot) -> None:
    with running(HOLD, state.path, "http://127.0.0.1:1") as holder:
        assert line_of(holder) == "held"
        holder.kill()
        holder.wait()
        with state.acquire(), pytest.raises(LockedError) as locked:
            state.acquire()
        assert locked.value.holder.pid == os.getpid()
        assert locked.value.holder.url == "", "the dead one's address is still told"


def test_children_do_not_inherit_the_lock(state: StateRoot) -> None:
    lock = state.acquire()
    with running("import sys; print('up', flush=True); sys.stdin.read()") as child:
        assert line_of(child) == "up"
        lock.release()
        state.acquire().release()


def test_a_lock_file_that_says_nothing_is_a_holder_without_address(state: StateRoot) -> None:
    with running(HOLD, state.path, "") as holder:
        assert line_of(holder) == "held"
        for text in (b"", b"{", b"[]", b'{"pid": "x"}', b"\xff", b"[" * 4000):
            (state.path / "gateway.lock").write_bytes(text)
            with pytest.raises(LockedError) as locked:
                state.acquire()
            assert (locked.value.holder.pid, locked.value.holder.url) == (0, "")


def test_the_lock_is_its_owners_alone(state: StateRoot) -> None:
    with state.acquire():
        assert mode(state.path / "gateway.lock") == 0o600


# --- the admin key


@pytest.fixture
def key_file(state: StateRoot, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("OPENCLAW_ADMIN_KEY", raising=False)
    return state.path / "admin.key"


def test_the_admin_key_is_minted_once_and_for_its_owner(state: StateRoot, key_file: Path) -> None:
    with pytest.raises(StateError, match="start the gateway once"):
        state.admin_key()
    first = state.mint_admin_key()
    assert mode(key_file) == 0o600
    assert state.admin_key() == key_file.read_text().strip()
    assert state.admin_key().startswith("ak_")
    assert len(state.admin_key()) == 3 + 64
    assert digest(state.admin_key()) == first == state.mint_admin_key()
    assert [path.name for path in state.path.iterdir() if "key" in path.name] == ["admin.key"]


def test_the_admin_key_is_minted_once_by_two_at_once(state: StateRoot, key_file: Path) -> None:
    with running(MINT, state.path) as one, running(MINT, state.path) as other:
        assert line_of(one) == line_of(other) == "there"
        tell(one)
        tell(other)
        digests = {line_of(one), line_of(other)}
    assert digests == {digest(state.admin_key()).hex()}
    assert [path.name for path in state.path.iterdir() if "key" in path.name] == ["admin.key"]


def test_the_environments_admin_key_comes_first(
    state: StateRoot, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mint_admin_key()
    monkeypatch.setenv("OPENCLAW_ADMIN_KEY", "from-the-environment")
    assert state.admin_key() == "from-the-environment"
    assert state.mint_admin_key() == digest("from-the-environment")
    monkeypatch.setenv("OPENCLAW_ADMIN_KEY", "")
    assert state.admin_key() == key_file.read_text().strip()


NO_KEYS = [
    "short",
    "x" * 257,
    "with spaces in the midst",
    "no-\u00e4scii-no-\u00e4scii",
    "a\tb" * 9,
]


@pytest.mark.parametrize("text", ["", "\n", *NO_KEYS])
def test_a_file_without_a_key_never_becomes_one(
    state: StateRoot, key_file: Path, text: str
) -> None:
    key_file.write_text(text)
    with pytest.raises(StateError, match=f"^{key_file} is no admin key"):
        state.admin_key()
    with pytest.raises(StateError, match=f"^{key_file} is no admin key"):
        state.mint_admin_key()


@pytest.mark.parametrize("text", NO_KEYS)
def test_an_environment_without_a_key_never_becomes_one(
    state: StateRoot, key_file: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OPENCLAW_ADMIN_KEY", text)
    with pytest.raises(StateError, match=r"^OPENCLAW_ADMIN_KEY is no admin key"):
        state.mint_admin_key()


def test_an_admin_key_that_cannot_be_read_is_named(state: StateRoot, key_file: Path) -> None:
    key_file.mkdir()
    with pytest.raises(StateError, match=f"^{key_file} cannot be read.*OPENCLAW_ADMIN_KEY"):
        state.admin_key()

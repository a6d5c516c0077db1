"""What a sandbox is, the same in both modes, from inside and from outside: one oracle a family.

`inside.py` reports from a sandbox of the real gateway, in one run for most families; what needs a
run of its own has one.
"""

import base64
import contextlib
import json
import platform
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.environment import BASE
from tests import cgroups
from tests.attack.acts import raw_number
from tests.conformance import inside, programs
from tests.conformance.box import CANARY, FILE_BYTES, Box, abstract_listener, own_address

FAMILIES = sorted(inside.FAMILIES)
VARIABLES = {
    "PLAIN": "a b",
    "EMPTY": "",
    "UNICODE": "na\u00efve \U0001f680",
    "LINES": "a\nb",
    "PATH": "/usr/bin:/bin",
}
WORDS = (
    "",
    " ",
    "a b",
    "*",
    "$HOME",
    "'",
    '"',
    "\\",
    "-n",
    "na\u00efve",
    "\U0001f680",
    "e\u0301",
    "\u202e",
    "x\ny",
)
STDIN = bytes(range(256)) * 3
DEVICES = {
    *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin"),
    *("stdout", "stderr", "core", "mqueue", "console"),
}
ROOT = {
    *("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "proc", "sys", "run"),
    *("tmp", "var", "work", "root", ".dockerenv"),
}
USER_KEYRING = -4
UNLINK = 9
SCRATCH = {"/tmp", "/var/tmp", "/dev/shm", "/work"}


@contextlib.contextmanager
def key_of_ours() -> Iterator[None]:
    """A key of the uid that runs the tests, which as an ordinary user is the sandboxes' too."""
    if platform.machine() != "x86_64":
        yield
        return
    key = raw_number(248, b"user\0", f"{CANARY}\0".encode(), b"x", 1, USER_KEYRING)  # add_key
    try:
        yield
    finally:
        raw_number(250, UNLINK, key, USER_KEYRING)  # keyctl


@pytest.fixture(scope="package")
def facts(box: Box) -> Any:
    """What `inside.py` reports of all families, in one run."""
    box.put(inside)
    with abstract_listener() as name, key_of_ours():
        told = [f"port={box.gateway.address.rpartition(':')[2]}", f"abstract={name}"]
        ran = box.run(
            *("python3", "/work/inside.py", *FAMILIES, *told, f"address={own_address()}"),
            *("--", *WORDS),
            env=VARIABLES,
            stdin=base64.b64encode(STDIN).decode(),
            stdinEncoding="base64",
        )
    assert (ran["exitCode"], ran["stderr"]) == (0, ""), ran
    return json.loads(ran["stdout"])


@pytest.fixture
def fact(facts: Any, request: pytest.FixtureRequest) -> Any:
    """What is reported of the family that a test is named after."""
    found = facts[request.node.originalname.removeprefix("test_")]
    assert "failed" not in found, found
    return found


def test_files(box: Box, fact: Any) -> None:
    made = box.work / "files"
    hello = inside.HELLO.encode() + b"\0\xff"
    assert fact["text"].encode("latin-1") == hello == (made / "text").read_bytes()
    assert {path.lstat().st_uid for path in made.iterdir()} == {box.uid}
    assert fact["names"] == sorted(entry.name for entry in made.iterdir())
    assert "a\nb\u00fc\U0001f600" in fact["names"]
    assert (made / "new").read_text() == "moved"
    assert (fact["links"], fact["soft"], fact["mapped"], fact["sparse"]) == (
        2,
        "text",
        "paged",
        1 << 20,
    )
    assert (fact["locked"], fact["too long"]) == ("EAGAIN", "ENAMETOOLONG")
    assert (fact["mtime"], fact["program"]) == (1_000_000_001, "ran\n")
    assert fact["xattr"] in (["user.x"], "ENOTSUP", "EOPNOTSUPP")
    assert (fact["umask"], fact["cwd"]) == (0o022, "/work")
    assert set(fact["root"]) <= ROOT
    assert {path for path, end in fact["writable"].items() if end == "worked"} - {"/run"} == SCRATCH
    assert not any(fact["away"].values()), fact["away"]
    loose = {
        place
        for place, options in fact["mounted"].items()
        if "nosuid" not in options.split(",") and "ro" not in options.split(",")
    }
    # Docker binds as the directory lies outside; that no new privileges are to be had holds there.
    assert loose <= ({"/work"} if box.mode == "docker" else set())


def test_what_is_scratch_and_what_stays(box: Box) -> None:
    first = box.shell("for d in /tmp /var/tmp /dev/shm /work; do echo kept > $d/kept; done")
    assert first["exitCode"] == 0, first
    second = box.shell("cat /tmp/kept /var/tmp/kept /dev/shm/kept 2>/dev/null; cat /work/kept")
    assert second["stdout"] == "kept\n"
    other = box.shell("ls -A /work", name="other")
    assert other["stdout"] == ""
    got = box.call("sandbox.files.get", path="kept")
    assert got["data"] == "kept\n"


def test_environment(box: Box, fact: Any) -> None:
    own = fact["own"]
    # What the shell or the engine adds is what it is, and nothing of the machine's.
    assert {name: own.pop(name, None) for name in ("PWD", "HOSTNAME", "LC_CTYPE")}
    assert own == {**BASE, **VARIABLES}


def test_identity(box: Box, fact: Any) -> None:
    assert set(fact["ids"]) == {box.uid}
    assert set(fact["groups"]) <= {box.uid}
    assert {int(mask, 16) for mask in fact["capabilities"].values()} == {0}
    assert (fact["no new privileges"], fact["seccomp"]) == ("1", "2")
    assert (fact["user"], fact["home"]) == ("sandbox", "/work")
    assert fact["hostname"] == "sandbox"
    # EINVAL: no such user is there to become.
    assert {fact["become root"], fact["other group"], fact["chroot"]} <= {"EPERM", "EINVAL"}
    assert fact["setuid programs"] == []


def test_network(fact: Any) -> None:
    assert fact["interfaces"] == ["lo"]
    unreachable = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"}
    for target in ("gateway", "gateway6", "host", "metadata", "abstract", "datagram"):
        assert fact[target] in unreachable, target
    assert "resolution" in fact["names"] or "not known" in fact["names"]
    assert fact["localhost"] == "127.0.0.1"
    assert (fact["loopback"], fact["local"]) == ("own", "own")
    for kind in ("raw", "packet", "vsock", "audit"):
        assert fact[kind] == "EPERM", kind


def test_devices(fact: Any) -> None:
    assert set(fact["names"]) <= DEVICES
    assert fact["blocks"] == []
    assert (fact["null"], fact["zero"], fact["random"]) == ("", "00000000", True)
    assert (fact["full"], fact["tty"]) == ("ENOSPC", "ENXIO")
    assert fact["descriptors"] == "/proc/self/fd"
    assert (fact["make"], fact["make disk"]) == ("EPERM", "EPERM")
    assert fact["pty"] == "own"


def test_proc(box: Box, fact: Any) -> None:
    assert len(fact["pids"]) <= 3  # a first process that reaps, and ours
    assert fact["pid"] in fact["pids"]
    shown = json.dumps([fact["commands"], fact["environments"]])
    assert CANARY not in shown
    assert str(box.gateway.state_dir) not in shown
    assert not {path: end for path, end in fact["written"].items() if end == "worked"}
    assert not {path: end for path, end in fact["secret"].items() if end == "worked"}
    for name, inner in fact["namespaces"].items():
        if name != "user" or box.mode == "bubblewrap":
            assert inner != str(Path(f"/proc/self/ns/{name}").readlink()), name
    assert fact["root of the first"] in (True, "EACCES")


def test_signals(fact: Any) -> None:
    assert fact["got"] == [signal.SIGUSR1, signal.SIGALRM]
    assert fact["ends"] == {"SIGTERM": -15, "SIGKILL": -9, "SIGSEGV": -11, "SIGPIPE": -13}
    assert (fact["ignored"], fact["blocked"], fact["default"]) == ([], [], True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE])
def test_a_program_ends_by_a_signal(box: Box, number: signal.Signals) -> None:
    script = f"import os, signal; signal.signal(13, signal.SIG_DFL); os.kill(os.getpid(), {number})"
    ran = box.python(script)
    assert (ran["exitCode"], ran["signal"]) == (None, number), ran


def test_limits(box: Box, fact: Any) -> None:
    held = {name: tuple(pair) for name, pair in fact["soft and hard"].items()}
    assert held["CORE"] == (0, 0)
    assert held["NOFILE"] == (1024, 1024)
    assert held["FSIZE"] == (FILE_BYTES, FILE_BYTES)
    assert (held["NICE"], held["RTPRIO"], held["MSGQUEUE"]) == ((0, 0),) * 3
    assert held["MEMLOCK"][1] <= 64 * 1024
    assert fact["raise"] == "EPERM"
    assert fact["nice"] in ("EPERM", "EACCES")
    assert fact["too long a file"] == FILE_BYTES
    assert fact["descriptors"] <= 1024
    for path, size in fact["scratch"].items():
        assert 32 * 2**20 <= size <= 64 * 2**20, path


BALLOON = """
import os, sys
kept = []
for _ in range(256):
    kept.append(os.urandom(2**20))
print(len(kept))
"""
CROWD = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        count += 1
except BlockingIOError:
    print("no more")
print(count)
"""


def caps_hold(box: Box) -> bool:
    """Whether what a sandbox's processes use together is bounded here, and not each alone."""
    return box.mode == "docker" or cgroups.refusal() is None


def test_memory(box: Box) -> None:
    ran = box.python(BALLOON, limits={"memoryBytes": 96 * 2**20})
    assert ran["stdout"] == ""
    if caps_hold(box):
        assert (ran["signal"], ran["oomKilled"]) == (signal.SIGKILL, True), ran
    else:
        assert (ran["exitCode"], ran["oomKilled"]) == (1, False), ran
        assert "MemoryError" in ran["stderr"]
    room = box.python(BALLOON)
    assert (room["exitCode"], room["stdout"], room["oomKilled"]) == (0, "256\n", False)
    assert room["peakMemoryBytes"] is None or room["peakMemoryBytes"] > 256 * 2**20
    assert room["cpuMs"] > 0


def test_processes(box: Box) -> None:
    ran = box.python(CROWD, limits={"pids": 32})
    if caps_hold(box):
        said, count = ran["stdout"].split("\n")[-3:-1]
        assert said == "no more"
        assert 16 < int(count) < 32


@pytest.mark.parametrize("code", [0, 1, 2, 100, 255])
def test_exit_codes(box: Box, code: int) -> None:
    ran = box.shell(f"exit {code}")
    assert (ran["exitCode"], ran["signal"], ran["timedOut"]) == (code, None, False)


def test_programs_that_cannot_be_run(box: Box) -> None:
    box.call("sandbox.files.put", path="plain", data="no program")
    for argv in (["/no/such"], ["no-such-program"], ["/work/plain"], ["/work"]):
        ran = box.run(*argv)
        assert ran["exitCode"] in (126, 127), (argv, ran)
        assert argv[0] in ran["stderr"]


def test_stdio(fact: Any) -> None:
    assert bytes.fromhex(fact["input"]) == STDIN
    assert (fact["more"], fact["terminals"]) == (0, [False] * 3)
    assert set(fact["kinds"]) <= {"p", "s"}
    assert all(fact["blocking"])
    assert fact["encoding"] == ["utf-8"] * 3


def test_streams_are_two(box: Box) -> None:
    ran = box.shell("cat; echo out; echo err >&2")
    assert (ran["stdout"], ran["stderr"]) == ("out\n", "err\n")
    assert (ran["stdoutEncoding"], ran["truncated"]) == ("text", False)


def test_binary_output(box: Box) -> None:
    ran = box.python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 256)")
    assert ran["stdoutEncoding"] == "base64"
    assert base64.b64decode(ran["stdout"]) == bytes(range(256)) * 256


def test_big_input_and_output(box: Box) -> None:
    """A program that writes more than is kept goes on to its end; input of any size arrives."""
    size = limits.SANDBOX_OUTPUT_BYTES_MAX
    stdin = "x" * (2 * 2**20)
    script = (
        "import sys; data = sys.stdin.buffer.read(); sys.stdout.write('o' * (3 * 2**20));"
        "sys.stderr.write(str(len(data)))"
    )
    ran = box.python(script, stdin=stdin)
    assert (ran["exitCode"], ran["stderr"]) == (0, str(len(stdin)))
    assert ran["stdout"] == "o" * size
    assert ran["truncated"]
    exact = box.python(f"print('o' * {size}, end='')")
    assert (len(exact["stdout"]), exact["truncated"]) == (size, False)


def test_nobody_reads_input(box: Box) -> None:
    ran = box.run("true", stdin="x" * 2**20)
    assert ran["exitCode"] == 0


def test_timeouts(box: Box) -> None:
    """Whoever ignores signals, and whatever it left behind, ends too."""
    script = f"trap '' TERM INT HUP; ({box.nap} &) ; (setsid {box.nap} &) ; echo on; {box.nap}"
    ran = box.shell(script, timeoutMs=3000)
    assert (ran["timedOut"], ran["exitCode"], ran["signal"]) == (True, None, signal.SIGKILL)
    assert ran["stdout"] == "on\n"
    assert box.naps() == 0


def test_what_is_left_behind_ends_with_the_program(box: Box) -> None:
    ran = box.shell(f"setsid {box.nap} > /dev/null 2>&1 < /dev/null & echo started")
    assert (ran["exitCode"], ran["stdout"]) == (0, "started\n")
    assert box.naps() == 0


def test_text(fact: Any) -> None:
    assert fact["argv"][fact["argv"].index("--") + 1 :] == list(WORDS)
    assert fact["printf"] == "na\u00efve \U0001f680"
    assert fact["locale"] == "C.UTF-8"


def test_a_character_that_is_cut_is_no_binary(box: Box) -> None:
    ran = box.python(f"print('\u00fc' * {limits.SANDBOX_OUTPUT_BYTES_MAX})")
    assert ran["truncated"]
    assert ran["stdout"] == "\u00fc" * (limits.SANDBOX_OUTPUT_BYTES_MAX // 2)


def test_long_arguments(box: Box) -> None:
    longest = "x" * limits.SANDBOX_ARGUMENT_BYTES_MAX
    many = ["y"] * (limits.SANDBOX_ARGUMENTS_MAX - 4)
    script = (
        "import os, sys; print(len(sys.argv) - 1, max(map(len, sys.argv)), len(os.environ['LONG']))"
    )
    ran = box.run("python3", "-c", script, longest, *many, env={"LONG": longest[len("LONG=") :]})
    size = limits.SANDBOX_ARGUMENT_BYTES_MAX
    assert ran["stdout"] == f"{limits.SANDBOX_ARGUMENTS_MAX - 3} {size} {size - 5}\n"
    many_variables = {f"V{n}": str(n) for n in range(limits.SANDBOX_VARIABLES_MAX)}
    counted = box.shell("env | grep -c '^V[0-9]'", env=many_variables)
    assert counted["stdout"] == f"{limits.SANDBOX_VARIABLES_MAX}\n"


def test_keys(box: Box, fact: Any) -> None:
    assert CANARY not in fact["shown"]
    assert set(fact["calls"]) == {"EPERM"}


def test_terminal_input(fact: Any) -> None:
    assert fact.pop("TIOCGWINSZ") == "worked"
    assert set(fact.values()) == {"EPERM"}


def test_ordinary_programs_work(box: Box) -> None:
    box.put(programs)
    ran = box.run("python3", "/work/programs.py")
    assert (ran["exitCode"], ran["stderr"]) == (0, ""), ran
    ends = json.loads(ran["stdout"])
    assert {"bash", "tar", "nice", "mkfifo", "python3"} <= ends.keys()
    assert ends == {name: [0, programs.PROGRAMS[name][1]] for name in ends}


def test_zombies(fact: Any) -> None:
    assert (fact["orphans"], fact["left"]) == (20, 0)


def test_descriptors(fact: Any) -> None:
    assert fact["open"] == [0, 1, 2]

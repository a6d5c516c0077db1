"""A zygote whose workers are attackers. Arguments: as the zygote's own, then JSON of `Options`.

A worker is told what to do (`Order`) and answers with JSON on its link to the supervisor.
"""

import asyncio
import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import apsw
import msgspec
import uvloop

from protocol import descriptors
from protocol.descriptors import WorkerDescriptors
from supervisor.zygote import jail, linux, main, roots, seccomp
from tests.attack import acts, attacks, marking

DEADLINE_SECONDS = 10.0
READ_BYTES = 65536


class Options(msgspec.Struct, frozen=True):
    """`skip` names steps of the jail that are left out; `shed` is what the zygote does at start.

    A step that is taken in both halves can be left out in one: `AHEAD.forbid_dumps`. With `marked`,
    see `marking`. With `dumpable` a process is that until `forbid_dumps`, in each half.
    `shared` are namespaces (`CLONE_NEW*` bits) that a worker does not get. With `rehearsal` see
    `rehearse`.
    """

    skip: tuple[str, ...] = ()
    marked: bool = False
    dumpable: bool = False
    shared: int = 0
    rehearsal: bool = False
    second_thread: bool = False
    shed: bool = True


class Order(msgspec.Struct, frozen=True):
    """What a worker does: a list of attacks, or one of the functions below by its name."""

    target: acts.Target
    attacks: tuple[str, ...] = ()
    task: str = ""
    arguments: tuple[tuple[str, int, int], ...] = ()


def try_attacks(order: Order) -> dict[str, str]:
    with contextlib.suppress(OSError):  # without a step of the jail this may be nobody's directory
        Path("own").write_bytes(b"mine")
    return {name: attacks.attempt(name, order.target) for name in order.attacks}


def look_around(_: Order) -> dict[str, object]:
    """What a worker sees of itself."""
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),  # noqa: PTH109
        "descriptors": [n for n in range(1024) if _is_open(n)],
        "environment": dict(os.environ),
        "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
    }


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def use_files(_: Order) -> dict[str, object]:
    """What a worker's store does."""
    Path("a/b").mkdir(parents=True)
    file = Path("a/b/file")
    file.write_bytes(b"text")
    file.rename("a/other")
    with Path("a/other").open("r+b") as opened:
        opened.truncate(2)
        os.fsync(opened.fileno())
        os.posix_fallocate(opened.fileno(), 0, 64)
    text = Path("a/other").read_bytes()
    Path("a/other").unlink()
    Path("a/b").rmdir()
    return {"text": text[:2].decode(), "listing": [entry.name for entry in Path("a").iterdir()]}


def use_database(_: Order) -> dict[str, object]:
    """A database that sorts in memory; its randomness."""
    return _use_database("memory")


def use_database_with_files(_: Order) -> dict[str, object]:
    """A database that sorts in temporary files."""
    return _use_database("file")


def _use_database(temp_store: str) -> dict[str, object]:
    """WAL, a sort that does not fit the cache, an index, VACUUM, a second connection."""
    connection = apsw.Connection("test.sqlite")
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("temp_store", temp_store)
    connection.pragma("cache_size", -64)
    connection.execute("create table t(a text)")
    with connection:
        connection.executemany(
            "insert into t values(?)", ((f"{n * 7919 % 30_011:08}" * 16,) for n in range(30_000))
        )
    rows = connection.execute("select a from t order by a").fetchall()
    connection.execute("create index i on t(a)")
    connection.execute("vacuum")
    other = apsw.Connection("test.sqlite")  # shares memory and locks
    report = {
        "sorted": rows == sorted(rows),
        "counted": other.execute("select count(*) from t").get,
        "random": connection.execute("select hex(randomblob(16))").get,
    }
    other.close()
    connection.close()
    return report


def use_threads(_: Order) -> dict[str, object]:
    """Threads start, wait for each other and end."""
    seen: list[int] = []
    threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return {"seen": sorted(seen), "still": threading.active_count()}


def use_uvloop(_: Order) -> dict[str, object]:
    """A loop with streams, timers, a thread pool and a signal handler."""

    async def talk() -> dict[str, object]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        _, answerer = await asyncio.open_connection(sock=theirs)
        answerer.write(b"hello\n")
        signalled = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, signalled.set)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_SECONDS):
            line = await reader.readline()
            await signalled.wait()
            in_thread = await asyncio.to_thread(threading.get_ident)
            await asyncio.sleep(0.001)
        for end in (writer, answerer):
            end.close()
        return {"line": line.decode(), "other": in_thread != threading.get_ident()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(talk())


def take_descriptor(_: Order) -> dict[str, object]:
    """What the supervisor hands over later arrives."""
    with socket.socket(fileno=os.dup(main.WORKER_DESCRIPTORS.channel)) as channel:
        payload, (got,) = descriptors.receive(channel)
    return {"payload": payload.decode(), "read": os.read(got, 100).decode()}


def wait_to_be_told(_: Order) -> dict[str, object]:
    """Lives until the supervisor says a word."""
    os.write(main.WORKER_DESCRIPTORS.ready, b"r")
    poll = select.poll()
    poll.register(main.WORKER_DESCRIPTORS.supervisor, select.POLLIN)
    poll.poll(DEADLINE_SECONDS * 1000)
    os.read(main.WORKER_DESCRIPTORS.supervisor, READ_BYTES)
    return {}


def outlive(_: Order) -> dict[str, object]:
    """Does not care for the supervisor's end; talks over its standard error, a socket."""
    poll = select.poll()
    poll.register(main.WORKER_DESCRIPTORS.supervisor, select.POLLHUP)
    os.write(main.WORKER_DESCRIPTORS.ready, b"r")
    poll.poll(DEADLINE_SECONDS * 1000)
    os.write(2, b"hung up\n")
    if os.read(2, READ_BYTES) == b"alive?\n":
        os.write(2, b"alive\n")
    sys.exit(0)  # there is nobody left to report to


def become_dumpable(_: jail.Confinement) -> None:
    """Undo what a change of uid has done, and the zygote's word."""
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def answer_marked_calls(_: jail.Confinement) -> None:
    seccomp.load(marking.ANSWER)


def passes(call: int, argument: int = 0, value: int = 0) -> bool:
    """Whether the jail lets a call with this argument through."""
    words = [0] * 5
    words[argument] = value
    return marking.verdict(call, *words) == "passes"


def walk_system_calls(order: Order) -> dict[str, object]:
    """Every number, and every value in `ARGUMENTS` of the arguments that decide."""
    decided = {
        call: [
            value for value in (*marking.ARGUMENTS, os.getpid()) if passes(number, argument, value)
        ]
        for call, number, argument in order.arguments
    }
    return {
        "pid": os.getpid(),
        "calls": [number for number in marking.CALLS if passes(number)],
        "arguments": decided,
    }


def walk_x32(_: Order) -> dict[str, object]:
    """Every number of the x32 table, each in a process of its own, which ends by a signal."""
    program = seccomp.compiled("worker")
    ends: list[int] = []
    for number in range(marking.X32_CALLS_MAX):
        pid = os.fork()
        if pid == 0:
            seccomp.load(program)
            acts.raw_number(marking.X32 | number)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return {"ends": ends}


def other_abi(_: Order) -> dict[str, object]:
    """getpid by the 32-bit gate: mov eax, 20; int 0x80; ret."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return {"pid": ctypes.CFUNCTYPE(ctypes.c_int)(address)()}


def x32_abi(_: Order) -> dict[str, object]:
    """getpid as x32 numbers it."""
    return {"pid": acts.raw_number(0x4000_0000 | 39)}


TASKS = {
    task.__name__: task
    for task in (
        look_around,
        use_files,
        use_database,
        use_database_with_files,
        outlive,
        use_threads,
        use_uvloop,
        take_descriptor,
        wait_to_be_told,
        walk_system_calls,
        walk_x32,
        other_abi,
        x32_abi,
    )
}


def entry(spec: bytes, links: WorkerDescriptors) -> int:
    order = msgspec.json.decode(spec, type=Order)
    report = TASKS[order.task](order) if order.task else try_attacks(order)
    with socket.socket(fileno=links.supervisor) as supervisor:
        supervisor.sendall(json.dumps(report).encode())
    return 0


def rehearse() -> None:
    """Say on standard error what a newborn is that waits for its order."""
    os.write(2, f"dumpable: {linux.prctl(linux.PR_GET_DUMPABLE)}\n".encode())


def steps_of(half: str, steps: tuple[jail.Step, ...], options: Options) -> Iterator[jail.Step]:
    """The steps of a half that are taken, and those that only these tests know."""
    for step in steps:
        if step is jail.forbid_dumps and options.dumpable:
            yield become_dumpable
        if step is jail.filter_system_calls and options.marked:
            yield answer_marked_calls
        if not {step.__name__, f"{half}.{step.__name__}"} & set(options.skip):
            yield step


if __name__ == "__main__":
    options = msgspec.json.decode(sys.argv[3], type=Options)
    program = main.Program(entry, rehearse) if options.rehearsal else main.Program(entry)
    if options.shared:
        flags_of = roots.namespace_flags

        def some_flags(profile: seccomp.Profile, *, root: bool) -> int:
            return flags_of(profile, root=root) & ~options.shared

        setattr(roots, "namespace_flags", some_flags)  # noqa: B010 - mypy takes it for a constant
    jail.AHEAD = tuple(steps_of("AHEAD", jail.AHEAD, options))
    jail.OWN = tuple(steps_of("OWN", jail.OWN, options))
    if options.second_thread:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if options.shed:
        main.main(sys.argv[1:], lambda: program)
    else:
        main.settle()
        with socket.socket(fileno=int(sys.argv[1])) as channel:
            main.filter_system_calls(channel)
            main.serve(channel, program)

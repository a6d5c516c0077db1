"""The system calls that are ours to make."""

import os
import random
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from supervisor.zygote import linux


def test_fork_gives_a_child_in_which_python_works() -> None:
    reader, writer = os.pipe()
    random.seed(7)
    pid = linux.fork()
    if pid == 0:
        try:
            lock = threading.RLock()
            got: list[bool] = []
            thread = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False)))
            with lock:
                thread.start()
                thread.join(5)
            # Seeded anew, or every tenant would draw the same numbers.
            same = random.getrandbits(64) == random.Random(7).getrandbits(64)
            os.write(writer, f"{got} {same} {threading.active_count()}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert os.waitpid(pid, 0) == (pid, 0)
    with os.fdopen(reader) as file:
        assert file.read() == "[False] False 1"


def test_fork_tells_why_it_failed() -> None:
    # A new pid namespace is no thread's to make.
    with pytest.raises(OSError, match="clone: Invalid argument"):
        linux.fork(linux.CLONE_NEWPID | 0x10000 | 0x800 | 0x100)


def test_paths_are_opened_without_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/inner").mkdir()
    os.close(linux.open_without_links(f"{tmp_path}/real/inner", os.O_PATH))
    for path in ("link", "link/inner"):
        with pytest.raises(OSError, match="openat2: Too many levels of symbolic links"):
            linux.open_without_links(f"{tmp_path}/{path}", os.O_PATH)


def test_close_range_closes_what_lies_in_it() -> None:
    reader, writer = os.pipe()
    high = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 3
    os.dup2(reader, high)
    os.dup2(reader, high + 1)
    linux.close_range(high, high)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(high)
    for descriptor in (reader, writer, high + 1):
        os.close(descriptor)


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "MACHINE", "pdp11")
    with pytest.raises(OSError, match="openat2: unknown machine type pdp11"):
        linux.number("openat2")


def test_both_machines_have_every_number() -> None:
    assert all(len(numbers) == len(linux._COLUMNS) for numbers in linux._NUMBERS.values())


KEEPER = """
import ctypes, resource
from supervisor.zygote import linux

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
linux.keep_freed_memory(8 * 2**20)

def use(size):
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)

use(2**19)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use(2**19)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEEPER], capture_output=True, text=True, check=True
    )
    pages_of_one_block = 2**19 // resource.getpagesize()
    assert int(done.stdout) < pages_of_one_block

"""Programs that take what they can get: `greedy.py <what> [number]`, after a line on stdin."""

import os
import sys
import time
from pathlib import Path

MIB = 2**20


def say(what: object) -> None:
    """Write a line that is read at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def balloon(mebibytes: int) -> None:
    """Fill so much memory, say so, and keep it."""
    kept = [bytearray(os.urandom(4096)) * (MIB // 4096) for _ in range(mebibytes)]
    say(len(kept))
    time.sleep(600)


def bomb(_: int) -> None:
    """Fork for ever, and so does every child; what is refused is tried again."""
    say("forking")
    while True:
        try:
            os.fork()
        except BlockingIOError:
            time.sleep(0.001)


def spin(_: int) -> None:
    """Use all the processor time there is."""
    say("spinning")
    while True:
        pass


def parent(_: int) -> None:
    """Have one child, say its pid, and wait."""
    child = os.fork()
    if child:
        say(child)
    time.sleep(600)


def write(path: str) -> None:
    """Write a file of 96 MiB, and have it on the disk."""
    with Path(path).open("wb") as file:
        file.writelines(bytes(MIB) for _ in range(96))
        file.flush()
        os.fsync(file.fileno())


def claim(setting: str) -> None:
    """Claim cgroups as a gateway does, say where this process is then, and leave when told to."""
    from supervisor.caps import place

    claimed = place.find(setting).claim(os.environ["GATEWAY"])
    say(claimed.tenant("acme").path)
    say(Path("/proc/self/cgroup").read_text().replace("\n", " "))
    sys.stdin.readline()
    claimed.leave()
    say(Path("/proc/self/cgroup").read_text().replace("\n", " "))


if __name__ == "__main__":
    sys.stdin.readline()
    what, argument = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "0")
    if what in {"claim", "write"}:
        {"claim": claim, "write": write}[what](argument)
    else:
        {"balloon": balloon, "bomb": bomb, "spin": spin, "parent": parent}[what](int(argument))

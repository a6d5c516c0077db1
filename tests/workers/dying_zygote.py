"""A zygote that clones as it is asked to, and dies before it can say the pid.

Its first argument names a file for the pid of the clone, which would live on if nobody ended it.
"""

import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from protocol import descriptors
from supervisor.child import FIRST_DESCRIPTOR
from supervisor.zygote import linux
from supervisor.zygote.spec import Serving


def main() -> None:
    channel = socket.socket(fileno=FIRST_DESCRIPTOR)
    descriptors.send(channel, msgspec.msgpack.encode(Serving()))
    attached: list[int] = []
    while not attached:  # a spawn comes with descriptors
        _, attached = descriptors.receive(channel)
    pid = linux.fork(linux.CLONE_PARENT)
    if pid == 0:
        signal.pause()
    Path(sys.argv[1]).write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

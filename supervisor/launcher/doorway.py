"""Runs first in a container that has a network: makes its proxy's socket there, and hands it out.

`python3 -I -S -c <this file> <where> <address> <port> <program> <arguments>`; `where` is the path
of a socket that leads to the launcher. The socket listens in the container's own network namespace;
who accepts on it is elsewhere. What runs here is nothing that anybody trusts: a listener that a
tenant hands out instead is still that container's. It imports nothing of ours.
"""

import os
import signal
import socket
import sys

BACKLOG = 64
NOT_EXECUTED = 127


def main(where: str, address: str, port: str, *argv: str) -> None:
    """Hand out a listener and become the program."""
    with socket.socket(socket.AF_UNIX) as channel, socket.socket() as listener:
        channel.connect(where)
        listener.bind((address, int(port)))
        listener.listen(BACKLOG)
        socket.send_fds(channel, [b"x"], [listener.fileno()])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(NOT_EXECUTED)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`python -m supervisor.egress`: egress as the supervisor starts it, confined."""

import os
import signal
import socket
import sys

# Before uvloop: libuv asks once. The policy of system calls has no io_uring.
os.environ["UV_USE_IO_URING"] = "0"

from protocol import descriptors
from protocol.egress import Settings
from supervisor.egress import main as egress
from supervisor.egress import outward
from supervisor.egress.confinement import confine
from supervisor.egress.settings import read
from supervisor.zygote.title import set_title

TITLE = "openclaw: egress"
EXIT_USAGE = 78


def main(arguments: list[str]) -> int:
    """Run one egress to its end; gives its exit code."""
    set_title(TITLE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        link, channel = (socket.socket(fileno=int(text)) for text in arguments[:2])
    except ValueError:
        os.write(2, b"usage: python -m supervisor.egress <link descriptor> <channel>\n")
        return EXIT_USAGE
    try:
        _, (settings_descriptor,) = descriptors.receive(channel, 1)
    except EOFError:
        return 0
    settings: Settings = read(settings_descriptor)
    outward.prepare(settings)
    confine(settings)
    return egress.run(settings, link, channel)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m supervisor.launcher`: the launcher as the supervisor starts it, with its stem."""

import os
import signal
import socket
import sys

# Before uvloop: libuv asks once. The policy of system calls has no io_uring.
os.environ["UV_USE_IO_URING"] = "0"

import msgspec

from protocol import descriptors
from protocol.launching import LauncherSpec
from supervisor.caps.place import reopen
from supervisor.launcher.confinement import confine_both, confine_launcher, confine_stem
from supervisor.launcher.stem import fork_stem
from supervisor.zygote import linux
from supervisor.zygote.title import set_title

TITLE = "openclaw: launcher"
EXIT_USAGE = 78


def _adopt(cgroup: str) -> None:
    reopen(cgroup).adopt(os.getpid())


def main(arguments: list[str]) -> int:
    """Run one launcher to its end; gives its exit code."""
    set_title(TITLE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        link, channel = (socket.socket(fileno=int(text)) for text in arguments[:2])
    except ValueError:
        os.write(2, b"usage: python -m supervisor.launcher <link descriptor> <channel>\n")
        return EXIT_USAGE
    os.umask(0o022)  # what it writes for sandboxes is read by their users
    for ours in (link, channel):
        ours.set_inheritable(False)
    # What the sandboxes' own first processes leave behind comes to us.
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    confine_both()
    if os.getppid() == 1:
        return 0  # the supervisor ended before it could be watched
    try:
        payload, _ = descriptors.receive(channel, 0)
    except EOFError:
        return 0
    spec = msgspec.msgpack.decode(payload, type=LauncherSpec)

    def leave() -> None:
        link.close()
        channel.close()
        confine_stem(spec.stem_policy)

    stem = fork_stem(_adopt, leave)
    # Only now what is big, and what starts threads.
    from supervisor.launcher import bwrap  # noqa: PLC0415
    from supervisor.launcher import main as launcher  # noqa: PLC0415

    found = bwrap.find()
    confine_launcher(spec.own_policy)
    return launcher.run(spec, link, channel, stem, found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

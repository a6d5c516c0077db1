"""`python -m supervisor.launcher`: the launcher as the supervisor starts it, with its stem."""

import os
import signal
import socket
import sys

# Before uvloop: libuv asks once. The policy of system calls has no io_uring.
os.environ["UV_USE_IO_URING"] = "0"

from supervisor.caps.place import reopen
from supervisor.launcher.confinement import confine_launcher, confine_stem
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
    for ours in (link, channel):
        ours.set_inheritable(False)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    # What the sandboxes' own first processes leave behind comes to us.
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

    def leave() -> None:
        link.close()
        channel.close()
        confine_stem()

    stem = fork_stem(_adopt, leave)
    # Only now what is big, and what starts threads.
    from supervisor.launcher import bubblewrap  # noqa: PLC0415
    from supervisor.launcher import main as launcher  # noqa: PLC0415

    try:
        spec = launcher.receive_spec(channel)
    except EOFError:
        return 0
    found = bubblewrap.find()
    confine_launcher()
    return launcher.run(spec, link, channel, stem, found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

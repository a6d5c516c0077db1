"""The stem: forks and execs what the launcher starts, as the launcher's own children.

A process with threads must not fork, and Docker's SDK takes threads. So the launcher's first act is
to fork this: one thread, no event loop, nothing of any tenant's. Each message on its descriptor
channel is one program to start: a memory file with a `Start`, then the program's descriptors.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import termios
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NoReturn

import msgspec

from protocol import descriptors
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher import netns
from supervisor.zygote import linux
from supervisor.zygote.title import set_title

TITLE: Final = "openclaw: stem"
BRANCH_TITLE: Final = "openclaw: branch"
EXIT_NOT_STARTED: Final = 125
_START: Final = b"\0start"
"""Any other message names the cgroup in which there is to be a stem on the channel it carries."""
_STANDARD: Final = 3
_OUT_OF_THE_WAY: Final = 64
_UMASK: Final = 0o022
# What Python or the launcher ignores would be ignored after exec too.
_SIGNALS: Final = (
    *(signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One program to start.

    Its descriptors are standard input, output and error, then the message's others from number 3
    on, then a memory file with each of `files`. With `terminal`, the first of the message is the
    terminal and stands for the standard three. Number 3 is where the child reports why it could
    not exec, as text.

    Attributes:
        argv: The program's path and arguments.
        uid: Whom it runs as.
        gid: As `uid`.
        files: See above.
        limits: Resource limits, by the numbers of `resource`.
        cgroup: What it joins first; None where there are none.
        terminal: See above.
    """

    argv: tuple[str, ...]
    uid: int
    gid: int
    files: tuple[bytes, ...] = ()
    limits: tuple[tuple[int, int], ...] = ()
    cgroup: str | None = None
    terminal: bool = False
    door: int | None = None
    """At which number lies where it hands out a listener of its own network namespace."""


class Started(msgspec.Struct, frozen=True):
    """The answer to each message, in order: a pid, or why there is none."""

    pid: int | None = None
    reason: str = ""


_decode_start: Final = msgspec.msgpack.Decoder(Start).decode
_decode_started: Final = msgspec.msgpack.Decoder(Started).decode

Adopt = Callable[[str], None]
"""Moves the calling process into the cgroup of that name."""


def fork_stem(adopt: Adopt, confine: Callable[[], None]) -> socket.socket:
    """Fork the stem; gives the launcher's end of its channel. The caller has a single thread.

    Args:
        adopt: For the programs' cgroups.
        confine: Gives up every right that the stem does not need.

    Raises:
        OSError: it cannot be forked.
    """
    ours, theirs = descriptors.pair()
    if os.fork() == 0:
        code = 1
        try:
            ours.close()
            set_title(TITLE)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            confine()
            _serve(theirs, adopt)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    return ours


def _serve(channel: socket.socket, adopt: Adopt) -> None:
    launcher = os.getppid()
    while True:
        try:
            payload, attached = descriptors.receive(channel)
        except (EOFError, ConnectionError):
            return
        try:
            pid = linux.fork(linux.CLONE_PARENT)
            if pid == 0:
                if payload != _START:
                    channel.close()
                    _be_branch(payload.decode(), attached[0], launcher, adopt)
                _be_started(attached, launcher, adopt)
            answer = Started(pid)
        except OSError as error:
            answer = Started(reason=str(error))
        for descriptor in attached:
            os.close(descriptor)
        try:
            descriptors.send(channel, msgspec.msgpack.encode(answer))
        except ConnectionError:
            return


def _be_branch(cgroup: str, channel: int, launcher: int, adopt: Adopt) -> NoReturn:
    code = EXIT_NOT_STARTED
    try:
        set_title(BRANCH_TITLE)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == launcher:
            adopt(cgroup)
            _serve(socket.socket(fileno=channel), adopt)
            code = 0
    finally:
        os._exit(code)


def _be_started(attached: list[int], launcher: int, adopt: Adopt) -> NoReturn:
    # Nothing may return from here into the stem's loop.
    try:
        order, *given = attached
        start = _decode_start(os.pread(order, os.fstat(order).st_size, 0))
        try:
            _exec(start, given, launcher, adopt)
        except (OSError, ValueError) as error:
            report = given[1 if start.terminal else _STANDARD]
            os.write(report, f"{start.argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(EXIT_NOT_STARTED)


def _exec(start: Start, given: list[int], launcher: int, adopt: Adopt) -> NoReturn:
    if start.cgroup is not None:
        adopt(start.cgroup)
    os.setsid()
    if start.terminal:
        given = [given[0]] * (_STANDARD - 1) + given
    _place([*given, *map(memory_file, start.files)])
    if start.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.umask(_UMASK)
    for kind, value in start.limits:
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(start.gid, start.gid, start.gid)
        os.setresuid(start.uid, start.uid, start.uid)
    if os.geteuid() != start.uid or os.getegid() != start.gid:
        raise PermissionError(f"cannot become uid {start.uid}, gid {start.gid}")
    if start.door is not None:
        netns.enter(start.door, start.uid, start.gid)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        raise ProcessLookupError("the launcher is gone")
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.execve(start.argv[0], start.argv, {})  # noqa: S606 - no shell is wanted


def memory_file(content: bytes) -> int:
    """Give a descriptor to read `content` from; the caller closes it.

    Raises:
        OSError: there are no descriptors left.
    """
    descriptor = os.memfd_create("openclaw")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _place(sources: Sequence[int]) -> None:
    # By way of higher numbers, as source and target numbers overlap.
    moved = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for source in sources]
    for target, source in enumerate(moved):
        os.dup2(source, target)


def _refusal(reason: str) -> GatewayError:
    return GatewayError(ErrorCode.UNAVAILABLE, f"no sandbox can be started now: {reason}")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(os.strerror(error.errno or 0)) from error


class Stem:
    """The launcher's side.

    Args:
        channel: The end that `fork_stem` gave.
        on_gone: Called when the stem has ended: nothing can be started any more.
    """

    def __init__(self, channel: socket.socket, on_gone: Callable[[], None]) -> None:
        self._channel: Final = channel
        self._on_gone: Final = on_gone
        self._loop: Final = asyncio.get_running_loop()
        self._waiting: Final[deque[asyncio.Future[int]]] = deque()
        self._closed = False
        channel.setblocking(False)
        self._loop.add_reader(channel, self._receive)

    async def start(self, start: Start, given: Iterable[int]) -> int:
        """Start a program; gives its pid, a child of this process that the caller waits for.

        Args:
            start: What.
            given: Its descriptors, see `Start`; the caller keeps and closes its own.

        Raises:
            GatewayError: UNAVAILABLE, it could not be forked. What fails later is in its report.
        """
        with _refusing():
            order = memory_file(msgspec.msgpack.encode(start))
            try:
                answer = self._ask(_START, [order, *given])
            finally:
                os.close(order)
        # Whoever waits may go away, the process is there all the same.
        return await asyncio.shield(answer)

    async def branch(self, cgroup: str) -> tuple[int, "Stem"]:
        """Have another stem in a cgroup; gives its pid, a child of this process, and its side here.

        Args:
            cgroup: As `supervisor.caps` names it.

        Raises:
            GatewayError: UNAVAILABLE, it could not be forked. If it cannot move it ends.
        """
        with _refusing():
            ours, theirs = descriptors.pair()
            with theirs:
                answer = self._ask(cgroup.encode(), [theirs.fileno()])
        made = Stem(ours, lambda: None)
        try:
            return await asyncio.shield(answer), made
        except BaseException:
            made.close()
            raise

    def _ask(self, payload: bytes, given: Sequence[int]) -> "asyncio.Future[int]":
        descriptors.send(self._channel, payload, given)
        answer: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append(answer)
        return answer

    @property
    def closed(self) -> bool:
        """Whether nothing can be started by it any more."""
        return self._closed

    def close(self) -> None:
        """Let the stem end."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._channel)
            self._channel.close()
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(_refusal("its process has ended"))

    def _receive(self) -> None:
        while not self._closed:
            try:
                payload, _ = descriptors.receive(self._channel, descriptors_max=0)
            except BlockingIOError:
                return
            except (EOFError, OSError):
                self.close()
                self._on_gone()
                return
            started = _decode_started(payload)
            answer = self._waiting.popleft()
            if started.pid is None:
                answer.set_exception(_refusal(started.reason))
            else:
                answer.set_result(started.pid)

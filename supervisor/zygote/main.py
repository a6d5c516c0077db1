"""The zygote: a process that has everything imported which a worker needs, and only forks.

It is exec'd with an empty environment before any secret is read, and has one thread and no event
loop. Workers are cloned as children of the supervisor, straight into their namespaces.
"""

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import msgspec

from protocol import descriptors
from protocol.descriptors import WorkerDescriptors
from supervisor.zygote import jail, linux, roots, seccomp
from supervisor.zygote.spec import (
    ENTRANCES_MAX,
    MYSELF,
    SPAWN_DESCRIPTORS,
    TOLD,
    WAITING,
    JailSpec,
    Order,
    Reply,
    Serving,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
)
from supervisor.zygote.title import ROOM, set_title


class Program(NamedTuple):
    """What the newborn run: `run` as the worker, `rehearse` before, while they wait to be told."""

    run: Callable[[bytes, WorkerDescriptors], int | None]
    rehearse: Callable[[], None] = lambda: None


# Where a worker finds its descriptors; whatever was at these numbers is closed.
WORKER_DESCRIPTORS: Final = WorkerDescriptors(supervisor=3, channel=4, ready=5)
_DESCRIPTORS_OUT_OF_THE_WAY: Final = 64
# What cloning into namespaces, mounting and becoming a tenant take. Reading past permissions is
# for an interpreter in somebody's home directory.
_CAPABILITIES: Final = frozenset(
    (
        linux.CAP_DAC_READ_SEARCH,
        linux.CAP_SETGID,
        linux.CAP_SETUID,
        linux.CAP_SETPCAP,
        linux.CAP_SYS_ADMIN,
    )
)
_start_decoder: Final = msgspec.msgpack.Decoder(Start)
_spawn_decoder: Final = msgspec.msgpack.Decoder(Spawn)
_order_decoder: Final = msgspec.msgpack.Decoder(Order)


def command(channel: int) -> list[str]:
    """Give the command that starts a zygote on a descriptor channel; run it with no environment.

    The thread that starts it must live as long as the supervisor: it is the one whose end the
    kernel tells the zygote and the workers of.
    """
    program = str(Path(__file__).with_name("__main__.py"))
    return [sys.executable, "-I", program, str(channel), ROOM]


def shed_privileges() -> None:
    """Keep only what forking workers takes, and die with the supervisor.

    Raises:
        OSError: the kernel refused.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        # It talks to nobody but the supervisor. Where there are no namespaces, workers have none.
        with contextlib.suppress(OSError):
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
        linux.drop_bounding_set(keep=_CAPABILITIES)
        linux.set_capabilities(_CAPABILITIES & linux.permitted_capabilities())
    else:
        _enter_user_namespace(os.geteuid(), os.getegid())
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    # A Ctrl-C and a reload are for the supervisor, which ends the others in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _enter_user_namespace(uid: int, gid: int) -> None:
    """Leave the caller's network, as root does; workers get user namespaces inside this one."""
    kinds = linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    try:
        linux.unshare(linux.CLONE_NEWUSER | kinds)
    except OSError:
        return  # where there are no namespaces, workers have none
    roots.map_ids(uid, gid)
    linux.drop_bounding_set()
    linux.set_capabilities()


def settle() -> None:
    """Make what has been loaded so far cheap to share: the collector never touches it again."""
    time.localtime()  # the C library reads the time zone once; in the jail there is no /etc
    gc.collect()
    gc.freeze()


def filter_system_calls(channel: socket.socket) -> None:
    """Wait for the supervisor's first message, and leave only the system calls that it names.

    Nothing is imported and nobody else's program run after it; workers rehearse and take their jail
    under it.

    Raises:
        EOFError: the supervisor is gone.
        msgspec.DecodeError: supervisor and zygote do not match.
        OSError: the kernel refused the policy.
    """
    payload, _ = descriptors.receive(channel, descriptors_max=0)
    policy = _start_decoder.decode(payload).policy
    if policy:
        seccomp.load(policy)


def serve(channel: socket.socket, program: Program) -> None:
    """Answer spawn requests until the supervisor closes the channel.

    Raises:
        msgspec.DecodeError: a request was malformed; supervisor and zygote do not match.
    """
    while True:
        try:
            payload, attached = descriptors.receive(channel, len(SPAWN_DESCRIPTORS))
        except (EOFError, ConnectionError):
            return
        try:
            reply = _spawn(channel, program, _spawn_decoder.decode(payload), attached)
        finally:
            for descriptor in attached:
                os.close(descriptor)
        try:
            descriptors.send(channel, msgspec.msgpack.encode(reply))
        except ConnectionError:
            return


def _spawn(channel: socket.socket, program: Program, spawn: Spawn, attached: list[int]) -> Reply:
    if len(attached) != len(SPAWN_DESCRIPTORS):
        return SpawnFailed(spawn.request, f"{len(attached)} descriptors came along")
    caller = (os.geteuid(), os.getegid())
    flags = linux.CLONE_PARENT
    if spawn.jail.namespaces:
        flags |= roots.namespace_flags(spawn.jail.profile, root=caller[0] == 0)
    jail.prepare(spawn.jail)
    try:
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            return SpawnFailed(spawn.request, f"the zygote has {threads} threads")
        pid = linux.fork(flags)
    except OSError as error:
        return SpawnFailed(spawn.request, str(error))
    if pid == 0:
        _be_born(channel, program, spawn.jail, attached, caller)
    return Spawned(spawn.request, pid)


def _be_born(
    channel: socket.socket,
    program: Program,
    shape: JailSpec,
    attached: list[int],
    caller: tuple[int, int],
) -> NoReturn:
    # Nothing may return from here into the zygote's loop.
    code = 1
    try:
        channel.detach()  # its number is about to be somebody else's
        _place(attached)
        process = jail.Confinement(
            shape,
            supervisor=WORKER_DESCRIPTORS.supervisor,
            keep=frozenset(WORKER_DESCRIPTORS),
            in_namespaces=shape.namespaces,
            caller=caller,
        )
        jail.confine_or_exit(process, jail.AHEAD)
        set_title("openclaw: spare")  # from here on it is one: nothing may look into it
        order = _wait_for_order(program)
        set_title(f"openclaw: worker {order.tenant}")
        process.become(order)
        jail.confine_or_exit(process, jail.OWN)
        code = program.run(order.entry, WORKER_DESCRIPTORS) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        _exit(code)


def _wait_for_order(program: Program) -> Order:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, WORKER_DESCRIPTORS.channel)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if not poll.poll(0):
        program.rehearse()
    try:
        descriptors.send(channel, WAITING)
        payload, entrances = descriptors.receive(channel, ENTRANCES_MAX)
        descriptors.send(channel, TOLD)
    except (EOFError, ConnectionError):
        _exit(0)  # nobody needs it
    channel.detach()
    _join(entrances)
    return _order_decoder.decode(payload)


def _join(entrances: list[int]) -> None:
    """Go into the cgroups that these files belong to, and close them.

    Raises:
        OSError: the kernel refuses; nothing may be done for the tenant.
    """
    for entrance in entrances:
        os.write(entrance, MYSELF)
        os.close(entrance)


def _exit(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _place(attached: list[int]) -> None:
    *links, errors = attached
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1):
        os.dup2(null, target)
    os.dup2(errors, 2)
    # By way of higher numbers, as source and target numbers overlap.
    moved = [
        fcntl.fcntl(link, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS_OUT_OF_THE_WAY) for link in links
    ]
    for source, target in zip(moved, WORKER_DESCRIPTORS, strict=True):
        os.dup2(source, target)


def main(arguments: list[str], load: Callable[[], Program]) -> None:
    """Run the zygote's program.

    Args:
        arguments: The number of the descriptor channel, and what `command` adds.
        load: Imports what the workers run.
    """
    set_title("openclaw: zygote")
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    shed_privileges()
    poll = select.poll()
    poll.register(channel, select.POLLHUP)
    if poll.poll(0):
        return  # the supervisor ended before it could be watched
    program = load()
    settle()
    try:
        filter_system_calls(channel)
        descriptors.send(channel, msgspec.msgpack.encode(Serving()))
    except (EOFError, ConnectionError):
        return  # the supervisor has changed its mind
    serve(channel, program)

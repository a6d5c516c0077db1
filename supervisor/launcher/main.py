"""The launcher's way from exec to exit.

Started as `python -m supervisor.launcher <link> <channel>`: the descriptors of its end of the data
link to the supervisor and of its end of the descriptor channel. The first message on the channel is
a `LauncherSpec` in MessagePack. It ends with 0 when the link to the supervisor ends, and what it
started ends with it.
"""

import asyncio
import contextlib
import gc
import socket
from typing import Final

import uvloop

from protocol import aio, launching
from supervisor.answering import SupervisorLink
from supervisor.front.log import Log
from supervisor.launcher.bubblewrap import Bubblewrap
from supervisor.launcher.bwrap import Found
from supervisor.launcher.engine import Absent, Engine
from supervisor.launcher.nurseries import Nurseries
from supervisor.launcher.service import FROM_SUPERVISOR, Launcher
from supervisor.launcher.stem import Stem

EXIT_STEM_GONE: Final = 3


def run(
    spec: launching.LauncherSpec,
    link: socket.socket,
    channel: socket.socket,
    stem: socket.socket,
    found: Found,
) -> int:
    """Launch what workers ask for, until the supervisor is gone; gives the exit code."""
    channel.setblocking(False)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(spec, link, channel, stem, found))


async def _serve(
    spec: launching.LauncherSpec,
    link: socket.socket,
    channel: socket.socket,
    stem_channel: socket.socket,
    found: Found,
) -> int:
    log = Log()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: log.broken("event loop", context.get("exception") or RuntimeError())
    )
    stem_gone = asyncio.Event()
    stem = Stem(stem_channel, stem_gone.set)
    docker = _docker(spec, log)
    engines: dict[launching.Mode, Engine] = {
        "bubblewrap": Bubblewrap(stem, spec.policy, found),
        "docker": docker,
    }
    handler = SupervisorLink("the launcher", log)
    # First: what it has to know comes at once.
    handler.owner = launcher = Launcher(spec, channel, engines, Nurseries(stem), log)
    launcher.supervisor = await aio.attach(link, FROM_SUPERVISOR, handler)
    log.info("start")
    waits = [asyncio.create_task(event.wait()) for event in (handler.closed, stem_gone)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    launcher.close()
    for engine in engines.values():
        with contextlib.suppress(Exception):
            await engine.close()
    return 0 if handler.closed.is_set() else EXIT_STEM_GONE


def _docker(spec: launching.LauncherSpec, log: Log) -> Engine:
    """Give the engine `docker`, whose modules cost 20 MB, if anybody could use it."""
    if not spec.images:
        reason = (
            "no image is named in sandbox.docker.images; openclaw sandbox image build makes one"
        )
        return Absent("docker", reason)
    from supervisor.launcher.docker_engine import DockerEngine  # noqa: PLC0415

    return DockerEngine(spec, lambda line: log.warning("docker", detail=line))

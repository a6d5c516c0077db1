"""The supervisor's side of a zygote that dies."""

import asyncio
from pathlib import Path

import pytest
import structlog

from supervisor import child
from supervisor.child import Exit
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import SpawnError, ZygoteProcess
from tests.workers import dying_zygote

JAIL = JailSpec(
    profile="worker", state_root="/", uid=1, gid=1, namespaces=True, readable=(), policy=b""
)


async def test_a_clone_whose_pid_was_never_said_is_ended_and_reaped(tmp_path: Path) -> None:
    ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    command = ("-I", str(dying_zygote.__file__), str(tmp_path / "pid"))
    zygote = ZygoteProcess(
        command, b"", lambda _, status: ended.set_result(status), structlog.get_logger()
    )
    await zygote.start()
    with pytest.raises(SpawnError):
        await zygote.spawn(JAIL, b"")
    assert (await ended).signal == 9
    pid = int((tmp_path / "pid").read_text())
    async with asyncio.timeout(20):
        while pid in child._children():  # noqa: ASYNC110 - a zombie, until it is reaped
            await asyncio.sleep(0)
    assert pid not in child._watched

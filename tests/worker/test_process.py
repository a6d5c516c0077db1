"""The worker as a process: what survives `kill -9`, what is imported, how it ends."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import apsw
import pytest

from protocol.errors import ErrorCode, GatewayError
from tests.worker.calls import EVERY_METHOD, OF_WEBSOCKETS
from tests.worker.egress import EgressEnd
from tests.worker.harness import Front, Process, names, worker_process
from tests.worker.launcher import LauncherEnd
from worker.sessions import schema

KEY = "agent:main:main"


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(str(directory / schema.PATH))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def started(process: Process) -> Front:
    assert await process.links.is_ready()
    return await process.front()


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"key": KEY, "message": text, **more}


async def test_nothing_is_imported_after_run_was_called(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir, mode="imports") as process:
        front = await started(process)
        await LauncherEnd().meet(process.links.channel)
        await EgressEnd().meet(process.links.channel)
        run = ""
        for method, params in EVERY_METHOD:
            given = {"runId": run} if method == "agent.wait" else params
            run = (await front.call(method, given)).get("runId", run)
        await front.call("sessions.create", {"key": KEY})
        await front.call("sessions.list", {"search": "x"})
        await front.call("sessions.send", message("x", idempotencyKey="own"))
        for method in OF_WEBSOCKETS:
            await front.refused(method, {})
        wrong: list[tuple[str, object]] = [
            ("no.such\n", {}),
            ("sessions.get", b'{"key":"\xff"}'),
            ("sessions.get", b"[" * 100_000),
            ("sessions.get", {"key": "é\0"}),
            ("sessions.send", message("other", idempotencyKey="k")),
            ("chat.history", {"sessionKey": KEY, "beforeSeq": -1}),
            ("agent.wait", {"runId": "gone"}),
        ]
        for method, bad in wrong:
            await front.refused(method, bad)
        await front.stream("sessions.send", message("/time")).result()
        aborted = front.stream("sessions.send", message("wait for the end"))
        await aborted.until("waiting")
        await front.call("chat.abort", {"sessionKey": KEY})
        await aborted.result()
        cut = front.stream("sessions.send", message("wait"))
        await cut.until("waiting")
        cut.cancel()
        with pytest.raises(GatewayError):
            await cut.result()
        front = await process.front()
        await front.call("health")
        process.links.drain(0.01)
        assert await process.exit_code() == 0
        assert json.loads(process.output()) == []
        assert process.errors() == b""


async def test_import_is_light(tenant_dir: Path) -> None:
    code = "import sys, worker.main; print(*sys.modules)"
    python = await asyncio.create_subprocess_exec(
        *(os.sys.executable, "-c", code),  # type: ignore[attr-defined]
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await python.communicate()
    modules = set(output.decode().split())
    heavy = {"docker", "aiohttp", "numpy", "sqlite_vec", "structlog", "importlib.metadata", "click"}
    assert "worker.main" in modules
    assert not modules & heavy


async def test_what_was_acknowledged_survives_a_kill(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir) as process:
        front = await started(process)
        keys = [(await front.call("sessions.create", {}))["key"] for _ in range(5)]
        sent = [
            await front.call("sessions.send", {"key": key, "message": f"wait {key}"})
            for key in keys
        ]
        process.kill()
    found = rows(tenant_dir, "SELECT seq, content FROM messages ORDER BY seq")
    assert [seq for seq, _ in found] == [each["messageSeq"] for each in sent]
    assert [json.loads(content)[0]["text"] for _, content in found] == [f"wait {k}" for k in keys]
    assert rows(tenant_dir, "SELECT key FROM sessions ORDER BY id") == [(key,) for key in keys]


async def test_finished_turn_survives_a_kill(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir) as process:
        front = await started(process)
        await front.call("sessions.create", {"key": KEY})
        result = await front.stream("sessions.send", message("hello")).result()
        process.kill()
    (row,) = rows(tenant_dir, "SELECT seq, content FROM messages WHERE role = 'assistant'")
    assert row[0] == result["reply"]["seq"]
    assert json.loads(row[1]) == result["reply"]["content"]
    assert rows(tenant_dir, "SELECT state FROM runs") == [("ok",)]


async def test_next_generation_takes_over(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir, generation=1) as process:
        front = await started(process)
        await front.call("sessions.create", {"key": KEY})
        cut = await front.call("sessions.send", message("wait"), key="cut")
        left = await front.call("sessions.send", message("left"), key="left")
        assert (cut["status"], left["status"]) == ("started", "queued")
        process.kill()
    async with worker_process(tenant_dir, generation=2) as process:
        front = await started(process)
        await front.finished(left["runId"], KEY)
        again = await front.call("sessions.send", message("wait"), key="cut")
        assert (again["runId"], again["status"]) == (cut["runId"], "interrupted")
        assert "cut off" in again["error"]
        again = await front.call("sessions.send", message("left"), key="left")
        assert (again["runId"], again["status"]) == (left["runId"], "ok")
        assert again["reply"]["content"][0]["text"] == "echo: left"
        process.links.drain(5)
        assert await process.exit_code() == 0
        assert b"turns interrupted" in process.errors()
    said = rows(tenant_dir, "SELECT role, content FROM messages ORDER BY seq")
    assert [(role, json.loads(content)[0]["text"]) for role, content in said] == [
        ("user", "wait"),
        ("user", "left"),
        ("assistant", "echo: left"),
    ]
    assert rows(tenant_dir, "SELECT state, owner FROM runs ORDER BY seq") == [
        ("interrupted", 1),
        ("ok", 2),
    ]


async def test_retry_after_a_kill_makes_no_second_turn(tenant_dir: Path) -> None:
    """Killed some moment after the request was sent: the retry finds it, or makes the only one."""
    for generation in range(1, 9):
        async with worker_process(tenant_dir, generation=generation) as process:
            front = await started(process)
            await front.call("sessions.create", {"key": KEY})
            front.end.start_call(
                "sessions.send",
                json.dumps(message(f"m{generation}")).encode(),
                lambda _reply: None,
                scopes=7,
                idempotency_key=f"k{generation}",
            )
            for _ in range(generation):
                await asyncio.sleep(0)
            process.kill()
    async with worker_process(tenant_dir, generation=100) as process:
        front = await started(process)
        for generation in range(1, 9):
            params = message(f"m{generation}")
            await front.stream("sessions.send", params, key=f"k{generation}").result()
        process.links.drain(5)
        assert await process.exit_code() == 0
    said = rows(tenant_dir, "SELECT content, count(*) FROM messages WHERE role = 'user' GROUP BY 1")
    assert len(said) == 8
    assert {count for _, count in said} == {1}
    answers = rows(
        tenant_dir, "SELECT run, count(*) FROM messages WHERE role = 'assistant' GROUP BY 1"
    )
    assert all(count == 1 for _, count in answers)


async def test_two_processes_on_one_directory(tenant_dir: Path) -> None:
    async with (
        worker_process(tenant_dir, generation=1) as old,
        worker_process(tenant_dir, generation=2, living=(1,)) as new,
    ):
        fronts = [await started(old), await started(new)]
        await fronts[0].call("sessions.create", {"key": KEY})
        last = {}
        for number in range(20):
            last = await fronts[number % 2].call("sessions.send", message(f"m{number}"))
        old.links.drain(5)
        assert await old.exit_code() == 0
        await fronts[1].finished(last["runId"], KEY)
        new.links.drain(5)
        assert await new.exit_code() == 0
    assert rows(tenant_dir, "SELECT state, count(*) FROM runs GROUP BY 1") == [("ok", 20)]
    said = rows(tenant_dir, "SELECT run, role FROM messages ORDER BY run, seq")
    assert said == [(run, role) for run in range(1, 21) for role in ("user", "assistant")]


async def test_full_disk_is_a_typed_error(tenant_dir: Path) -> None:
    """A limit on the size of a file stands for the disk: the kernel refuses the write."""
    async with worker_process(tenant_dir, file_bytes_max=600_000) as process:
        front = await started(process)
        await front.call("sessions.create", {"key": KEY})
        acknowledged: list[int] = []
        error = None
        for number in range(20):
            try:
                sent = await front.call("sessions.send", message(f"wait {number}" + "x" * 100_000))
                acknowledged.append(sent["messageSeq"])
            except GatewayError as refused:
                error = refused
                break
        assert error is not None
        assert error.code is ErrorCode.UNAVAILABLE
        assert error.message.startswith("storage ")
        assert str(tenant_dir) not in error.message
        assert (await front.call("health"))["ok"]
        assert (await front.call("sessions.list"))["total"] == 1
        history = await front.call("chat.history", {"sessionKey": KEY})
        assert [row["seq"] for row in history["messages"]] == acknowledged
        process.kill()
    assert [
        seq for (seq,) in rows(tenant_dir, "SELECT seq FROM messages ORDER BY seq")
    ] == acknowledged


# How it ends.


async def test_closed_supervisor_link_ends_it(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir) as process:
        front = await started(process)
        await front.call("sessions.create", {"key": KEY})
        await front.call("sessions.send", message("wait"))
        assert process.links.end is not None
        process.links.end.close()
        assert await process.exit_code() == 1


async def test_database_of_a_newer_program(tenant_dir: Path) -> None:
    (tenant_dir / "sessions").mkdir()
    connection = apsw.Connection(schema.PATH)
    connection.pragma("user_version", 1000)
    connection.close()
    async with worker_process(tenant_dir) as process:
        assert not await process.links.is_ready()
        assert await process.exit_code() == 78
        assert b"schema version 1000" in process.errors()


async def test_folder_that_leads_elsewhere(tenant_dir: Path) -> None:
    elsewhere = tenant_dir.parent / "elsewhere"
    elsewhere.mkdir()
    (tenant_dir / "sessions").symlink_to(elsewhere)
    async with worker_process(tenant_dir) as process:
        assert not await process.links.is_ready()
        assert await process.exit_code() == 3
    assert names(elsewhere) == []


async def test_damaged_database(tenant_dir: Path) -> None:
    (tenant_dir / "sessions").mkdir()
    (tenant_dir / schema.PATH).write_bytes(b"no database " * 1000)
    async with worker_process(tenant_dir) as process:
        assert not await process.links.is_ready()
        assert await process.exit_code() == 3
        assert b"sessions.sqlite is damaged" in process.errors()


async def test_hung_worker_says_where_it_is(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir) as process:
        front = await started(process)
        await front.call("sessions.create", {})
        process.popen.send_signal(signal.SIGABRT)
        assert await process.exit_code() == -signal.SIGABRT
        errors = process.errors()
    assert b"Fatal Python error: Aborted" in errors
    assert errors.count(b"most recent call first") == 2  # the loop's thread and the writer's
    assert b"in run" in errors


async def test_full_disk_at_the_start_lets_it_start(tenant_dir: Path) -> None:
    async with worker_process(tenant_dir, generation=1) as process:
        front = await started(process)
        await front.call("sessions.create", {"key": KEY})
        cut = await front.call("sessions.send", message("wait" + "x" * 200_000))
        process.kill()
    async with worker_process(tenant_dir, generation=2, file_bytes_max=10_000) as process:
        front = await started(process)
        assert (await front.call("health"))["ok"]
        error = await front.refused("sessions.send", message("x"))
        assert error.code is ErrorCode.UNAVAILABLE
        assert error.message.startswith("storage ")
        process.kill()
        assert b"sessions not opened" in process.errors()
    async with worker_process(tenant_dir, generation=3) as process:
        front = await started(process)
        await front.finished(cut["runId"], KEY)

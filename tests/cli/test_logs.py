import json
import os
import select
import subprocess
from pathlib import Path

from tests.cli.command import OPENCLAW

LINES = [
    {"event": "gateway ready"},
    {"tenant": "acme", "event": "worker died"},
    {"tenant": "globex", "event": "worker died"},
    {"source": "front", "line": '{"prefix":"tk_acme_"}', "event": "output"},
]


def write(state_dir: Path, *lines: dict[str, str]) -> Path:
    path = state_dir / "gateway.log"
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def run(state_dir: Path, *arguments: str) -> list[dict[str, str]]:
    done = subprocess.run(
        [str(OPENCLAW), "logs", *arguments],
        env={**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_newest_lines(state_dir: Path) -> None:
    write(state_dir, *LINES)
    assert run(state_dir) == LINES
    assert run(state_dir, "-n", "1") == LINES[-1:]
    assert run(state_dir, "-n", "0") == []


def test_lines_about_one_tenant(state_dir: Path) -> None:
    write(state_dir, *LINES)
    assert run(state_dir, "--tenant", "acme") == [LINES[1], LINES[3]]
    assert run(state_dir, "--tenant", "nobody") == []


def test_a_tenant_cannot_write_about_another(state_dir: Path) -> None:
    forged = '{"tenant": "acme"} "tenant": "acme" tk_acme_'
    write(state_dir, {"tenant": "globex", "source": "worker", "line": forged, "event": "output"})
    assert run(state_dir, "--tenant", "acme") == []
    assert len(run(state_dir, "--tenant", "globex")) == 1


def test_no_log_is_a_clear_error(state_dir: Path) -> None:
    done = subprocess.run(
        [str(OPENCLAW), "logs"],
        env={**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "gateway.log" in done.stderr
    assert "Traceback" not in done.stderr


def test_following_also_over_a_rotation(state_dir: Path) -> None:
    path = write(state_dir, LINES[0])
    process = subprocess.Popen(
        [str(OPENCLAW), "logs", "--follow"],
        env={**os.environ, "OPENCLAW_STATE_DIR": str(state_dir), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None

    def next_line() -> object:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 20)[0]
        return json.loads(process.stdout.readline())

    try:
        assert next_line() == LINES[0]
        write(state_dir, LINES[1])
        assert next_line() == LINES[1]
        path.rename(state_dir / "gateway.log.1")
        write(state_dir, LINES[2])
        assert next_line() == LINES[2]
    finally:
        process.kill()
        process.communicate()

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import checkup
from supervisor.zygote import jail
from tests import cgroups
from tests.cli.command import OPENCLAW

STEPS = dict.fromkeys(step.__name__ for step in jail.AHEAD + jail.OWN)
WITHOUT_CGROUPS = ["caps"] if cgroups.refusal() else []
WITHOUT = Path(__file__).parents[1] / "e2e" / "without.py"


def doctor(
    state_dir: Path, *refused: str, as_json: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [str(OPENCLAW), "doctor", *(["--json"] if as_json else [])]
    if refused:
        command = [sys.executable, str(WITHOUT), *refused, "--", *command]
    env = {**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_every_step_says_what_is_lost_without_it() -> None:
    assert list(checkup.LOST_WITHOUT) == list(STEPS)


def test_a_machine_where_everything_holds(state_dir: Path) -> None:
    done = doctor(state_dir)
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)
    assert [check["name"] for check in checks if not check["holds"]] == WITHOUT_CGROUPS
    assert set(STEPS) == {check["name"] for check in checks if check["name"] in STEPS}
    assert all(check["without"] for check in checks if check["name"] in STEPS)


def test_it_says_so_to_people_too(state_dir: Path) -> None:
    done = doctor(state_dir, as_json=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    for step in STEPS:
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"✓ {step} ")]
        assert lines[at + 1] == f"without it {checkup.LOST_WITHOUT[step]}"


@pytest.mark.parametrize(
    ("step", "call"), [("new_session", "setsid"), ("drop_capabilities", "capset")]
)
def test_a_step_that_is_refused_here(step: str, call: str, state_dir: Path) -> None:
    checks = json.loads(doctor(state_dir, call).stdout)
    assert step in [check["name"] for check in checks if not check["holds"]]


def test_a_machine_below_the_minimum(state_dir: Path) -> None:
    done = doctor(state_dir, "namespaces", "landlock_create_ruleset")
    assert done.returncode == 78
    missing = {
        check["name"]: check["without"] for check in json.loads(done.stdout) if not check["holds"]
    }
    assert set(missing) == {
        "minimum",
        "enter_namespaces",
        "build_root",
        "change_root",
        "restrict_files",
        *([] if os.geteuid() == 0 else ["egress"]),
        *WITHOUT_CGROUPS,
    }
    assert all(missing.values())


def test_isolation_none_is_no_failure(state_dir: Path) -> None:
    (state_dir / "config.yaml").write_text("isolation: {mode: none}\n")
    assert doctor(state_dir, "namespaces", "landlock_create_ruleset").returncode == 0


def test_models_without_a_price_are_named(state_dir: Path) -> None:
    assert "models" not in {check["name"] for check in json.loads(doctor(state_dir).stdout)}
    config = {
        "providers": {"local": {"type": "openai", "base_url": "http://127.0.0.1:1/v1"}},
        "models": {"priced-1": {"provider": "local"}, "other": {"provider": "local"}},
        "billing": {"rate_card": {"priced-*": {"input": 1, "output": 2}}},
    }
    (state_dir / "config.yaml").write_text(json.dumps(config))
    done = doctor(state_dir)
    assert done.returncode == 0  # the others serve
    (found,) = [check for check in json.loads(done.stdout) if check["name"] == "models"]
    assert not found["holds"]
    assert found["detail"] == "billing.rate_card has none for other"


def test_docker_is_looked_at_where_it_is_set_up(state_dir: Path) -> None:
    assert "docker" not in {check["name"] for check in json.loads(doctor(state_dir).stdout)}
    host = f"unix://{state_dir}/nobody.sock"
    (state_dir / "config.yaml").write_text(
        f"sandbox: {{docker: {{host: '{host}', images: {{base: 'sha256:{'0' * 64}'}}}}}}\n"
    )
    done = doctor(state_dir)
    assert done.returncode == 0  # bubblewrap serves on
    (found,) = [check for check in json.loads(done.stdout) if check["name"] == "docker"]
    assert not found["holds"]
    assert f"no Docker daemon answers at {host}" in found["detail"]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("runtime", "image", "detail"),
    [
        (None, None, "Docker "),
        ("runsc", None, "it has no runtime runsc"),
        (None, f"sha256:{'0' * 64}", "it has no image base"),
    ],
    ids=["good", "runtime", "image"],
)
def test_docker(
    state_dir: Path,
    dockerd: str,
    docker_image: str,
    runtime: str | None,
    image: str | None,
    detail: str,
) -> None:
    docker = {"host": dockerd, "images": {"base": image or docker_image}, "runtime": runtime}
    (state_dir / "config.yaml").write_text(json.dumps({"sandbox": {"docker": docker}}))
    (found,) = [
        check for check in json.loads(doctor(state_dir).stdout) if check["name"] == "docker"
    ]
    assert found["holds"] is (runtime is None and image is None)
    assert found["detail"].startswith(detail)

"""Which sandbox a call gets, and who said so."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.config import Overlay
from tests.worker.harness import running_worker
from tests.worker.launcher import CEILINGS, LauncherEnd
from worker.sandbox import link
from worker.sandbox.choice import Asked, choose, misfit

ONLY_BUBBLEWRAP = msgspec.structs.replace(CEILINGS, modes=("bubblewrap",), images=())


def overlay(**sections: Any) -> Overlay:
    return msgspec.convert(sections, Overlay)


DOCKER = {"mode": "docker"}
BUBBLEWRAP = {"mode": "bubblewrap"}


@pytest.mark.parametrize(
    ("tenant", "asked", "mode", "by"),
    [
        ({}, Asked(), "bubblewrap", "gateway"),
        ({"sandbox": DOCKER}, Asked(), "docker", "tenant"),
        ({"sandbox": DOCKER}, Asked(mode="bubblewrap"), "bubblewrap", "call"),
        ({}, Asked(mode="docker"), "docker", "call"),
        ({"tools": {"exec": {"sandbox": "docker"}}}, Asked(), "bubblewrap", "gateway"),
        ({"tools": {"exec": {"sandbox": "docker"}}}, Asked(tool="other"), "bubblewrap", "gateway"),
        ({"tools": {"exec": {}}}, Asked(tool="exec"), "bubblewrap", "gateway"),
        ({"tools": {"exec": {"sandbox": "docker"}}}, Asked(tool="exec"), "docker", "tool"),
        (
            {"sandbox": DOCKER, "tools": {"exec": {"sandbox": "bubblewrap"}}},
            Asked(mode="docker", tool="exec"),
            "bubblewrap",
            "tool",
        ),
    ],
)
def test_the_mode_is_the_last_words(
    tenant: dict[str, Any], asked: Asked, mode: str, by: str
) -> None:
    assert choose(CEILINGS, overlay(**tenant), asked).mode == (mode, by)


@pytest.mark.parametrize(
    ("tenant", "asked", "code", "field"),
    [
        ({}, Asked(mode="docker"), ErrorCode.INVALID_REQUEST, "sandbox"),
        ({"sandbox": DOCKER}, Asked(), ErrorCode.CONFLICT, "sandbox.mode"),
        (
            {"tools": {"exec": {"sandbox": "docker"}}},
            Asked(mode="bubblewrap", tool="exec"),
            ErrorCode.CONFLICT,
            "tools.exec.sandbox",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_and_nothing_else_is_taken(
    tenant: dict[str, Any], asked: Asked, code: ErrorCode, field: str
) -> None:
    with pytest.raises(GatewayError, match=r"docker is not allowed; .* bubblewrap") as refused:
        choose(ONLY_BUBBLEWRAP, overlay(**tenant), asked)
    assert (refused.value.code, refused.value.details["field"]) == (code, field)


def test_a_call_goes_round_a_configuration_that_is_not_allowed() -> None:
    chosen = choose(ONLY_BUBBLEWRAP, overlay(sandbox=DOCKER), Asked(mode="bubblewrap"))
    assert chosen.mode == ("bubblewrap", "call")


def test_images_are_those_that_the_operator_names() -> None:
    docker = Asked(mode="docker")
    assert choose(CEILINGS, overlay(), docker).image == ("base", "gateway")
    named = overlay(sandbox={"image": "python"})
    assert choose(CEILINGS, named, docker).image == ("python", "tenant")
    assert choose(CEILINGS, named, docker._replace(image="base")).image == ("base", "call")
    others = msgspec.structs.replace(CEILINGS, images=("b", "c"))
    assert choose(others, overlay(), docker).image == ("b", "gateway")
    assert choose(CEILINGS, named, Asked()).image == (None, "gateway")
    for tenant, asked, code, field in (
        (overlay(), docker._replace(image="nope"), ErrorCode.INVALID_REQUEST, "image"),
        (overlay(), Asked(image="python"), ErrorCode.INVALID_REQUEST, "image"),
        (overlay(sandbox={"image": "nope"}), docker, ErrorCode.CONFLICT, "sandbox.image"),
    ):
        with pytest.raises(GatewayError) as refused:
            choose(CEILINGS, tenant, asked)
        assert (refused.value.code, refused.value.details["field"]) == (code, field)
    with pytest.raises(GatewayError) as refused:
        choose(msgspec.structs.replace(CEILINGS, images=()), overlay(), docker)
    assert refused.value.code is ErrorCode.UNAVAILABLE


def test_numbers_are_lowered_to_what_is_allowed() -> None:
    nothing = choose(CEILINGS, overlay(), Asked())
    assert (nothing.wall_seconds, nothing.memory_bytes) == ((60.0, "gateway"), (2**29, "gateway"))
    less = choose(
        CEILINGS, overlay(), Asked(wall_seconds=5.0, caps=launching.Caps(cpus=0.5, pids=4))
    )
    assert (less.wall_seconds, less.cpus, less.pids) == (
        (5.0, "call"),
        (0.5, "call"),
        (4, "call"),
    )
    most = launching.Caps(memory_bytes=2**40, cpus=64.0, pids=2**20)
    more = choose(CEILINGS, overlay(), Asked(wall_seconds=1000.0, caps=most))
    assert more.wall_seconds == (100.0, "operator")
    assert (more.memory_bytes, more.cpus, more.pids) == (
        (2**29, "operator"),
        (1.0, "operator"),
        (128, "operator"),
    )
    assert more.caps == CEILINGS.sandbox
    short = msgspec.structs.replace(CEILINGS, wall_seconds=10.0)
    assert choose(short, overlay(), Asked()).wall_seconds == (10.0, "operator")
    unbounded = msgspec.structs.replace(CEILINGS, sandbox=launching.Caps())
    assert choose(unbounded, overlay(), Asked(caps=most)).pids == (2**20, "call")


def test_a_configuration_is_held_against_what_is_allowed() -> None:
    assert misfit(CEILINGS, overlay(sandbox={"mode": "docker", "image": "python"})) is None
    for tenant, key in (
        ({"sandbox": DOCKER}, "sandbox.mode"),
        ({"sandbox": {"image": "python"}}, "sandbox.image"),
        ({"tools": {"exec": {"sandbox": "docker"}}}, "tools.exec.sandbox"),
    ):
        found = misfit(ONLY_BUBBLEWRAP, overlay(**tenant))
        assert found is not None
        assert found[0] == key


# Through the worker.


async def test_a_call_a_configuration_and_a_tool_choose(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        launcher = LauncherEnd()
        await launcher.meet(rig.links.channel)
        run = {"argv": ["x"], "limits": {"memoryBytes": 2**40}}
        await rig.front.call("sandbox.run", run)
        raw = "sandbox: {mode: docker, image: python}\ntools: {exec: {sandbox: bubblewrap}}"
        await rig.front.call("config.set", {"raw": raw})
        await rig.front.call("sandbox.run", run)
        send = {"sessionKey": "agent:main:main", "message": "/run echo 'a  b'"}
        done = await rig.front.stream("chat.send", send).result()
        explained = await rig.front.call("sandbox.explain", {"tool": "exec"})
    first, second, third = launcher.asked
    assert (first.mode, first.image, first.caps.memory_bytes) == ("bubblewrap", None, 2**29)
    assert (second.mode, second.image) == ("docker", "python")
    assert (third.mode, third.image, third.argv) == ("bubblewrap", None, ("echo", "a  b"))
    assert "exit code 0" in done["reply"]["content"][0]["text"]
    assert explained["profile"]["mode"] == {"value": "bubblewrap", "source": "tool"}


async def test_a_configuration_that_is_not_allowed_is_not_written(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        # Before anybody knows what is allowed, it can only be told at the call.
        early = {"raw": "sandbox: {mode: docker}"}
        await rig.front.call("config.set", early)
        launcher = LauncherEnd(ONLY_BUBBLEWRAP)
        await launcher.meet(rig.links.channel)
        error = await rig.front.refused("sandbox.run", {"argv": ["x"]})
        assert (error.code, error.details["field"]) == (ErrorCode.CONFLICT, "sandbox.mode")
        for method in ("config.set", "config.patch"):
            error = await rig.front.refused(method, early)
            assert (error.code, error.details["field"]) == (
                ErrorCode.INVALID_REQUEST,
                "raw.sandbox.mode",
            )
        unknown = {"raw": "tools: {rm: {sandbox: bubblewrap}}"}
        error = await rig.front.refused("config.patch", {"raw": "sandbox: null"} | unknown)
        assert error.details["field"] == "raw.tools"
        await rig.front.call("config.patch", {"raw": "sandbox: null"})
        await rig.front.call("sandbox.run", {"argv": ["x"]})
    assert [spec.mode for spec in launcher.asked] == ["bubblewrap"]


async def test_what_runs_is_told(tenant_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_worker() as rig:
        with monkeypatch.context() as impatient:
            hasty = link._BOUNDS._replace(wait_seconds=0.01)  # none will come
            impatient.setattr(rig.worker.services.launcher, "_bounds", hasty)
            for method in ("list", "status", "explain"):
                error = await rig.front.refused(f"sandbox.{method}")
                assert error.code is ErrorCode.UNAVAILABLE
        await LauncherEnd().meet(rig.links.channel)
        listed = await rig.front.call("sandbox.list")
        status = await rig.front.call("sandbox.status")
        assert (await rig.front.call("sandbox.kill", {"sandboxId": "5a"})) == {"ok": True}
        error = await rig.front.refused("sandbox.kill", {"sandboxId": "5c"})
        assert error.code is ErrorCode.NOT_FOUND
    (only,) = listed["sandboxes"]
    assert (only["sandboxId"], only["argv"], only["limits"]) == (
        "5a",
        ["sleep", "9"],
        {"pids": 128},
    )
    assert (listed["queued"], status["running"], status["queued"]) == (2, 1, 2)
    assert [mode["mode"] for mode in status["modes"]] == ["bubblewrap", "docker"]


NETWORKS = msgspec.structs.replace(CEILINGS, networks=("packages", "weather"))
PACKAGES = {"network": "packages"}


@pytest.mark.parametrize(
    ("tenant", "asked", "network", "by"),
    [
        ({}, Asked(), None, "gateway"),
        ({"sandbox": PACKAGES}, Asked(), "packages", "tenant"),
        ({"sandbox": PACKAGES}, Asked(network="weather"), "weather", "call"),
        ({"sandbox": PACKAGES}, Asked(network="none"), None, "call"),
        ({"tools": {"exec": PACKAGES}}, Asked(network="weather", tool="exec"), "packages", "tool"),
        (
            {"tools": {"exec": {"network": "none"}}, "sandbox": PACKAGES},
            Asked(),
            "packages",
            "tenant",
        ),
        (
            {"tools": {"exec": {"network": "none"}}, "sandbox": PACKAGES},
            Asked(tool="exec"),
            None,
            "tool",
        ),
    ],
)
def test_the_network_is_the_last_words(
    tenant: dict[str, Any], asked: Asked, network: str | None, by: str
) -> None:
    assert choose(NETWORKS, overlay(**tenant), asked).network == (network, by)


@pytest.mark.parametrize(
    ("tenant", "asked", "code", "field"),
    [
        ({}, Asked(network="other"), ErrorCode.INVALID_REQUEST, "network"),
        ({"sandbox": {"network": "other"}}, Asked(), ErrorCode.CONFLICT, "sandbox.network"),
        (
            {"tools": {"exec": {"network": "other"}}},
            Asked(tool="exec"),
            ErrorCode.CONFLICT,
            "tools.exec.network",
        ),
    ],
)
def test_a_network_that_there_is_not_is_refused_by_name(
    tenant: dict[str, Any], asked: Asked, code: ErrorCode, field: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        choose(NETWORKS, overlay(**tenant), asked)
    assert (refused.value.code, refused.value.details["field"]) == (code, field)
    assert "none, packages, weather" in refused.value.message
    misfits = misfit(NETWORKS, overlay(**tenant))
    assert misfits is None if field == "network" else misfits is not None and misfits[0] == field

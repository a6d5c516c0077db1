"""The handlers of `sandbox.list|kill|status|explain`."""

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from protocol import environment, launching
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Mode
from protocol.methods import sandbox_state
from protocol.methods.sandbox_state import Mount, Setting
from worker.dispatch import CallContext, handles
from worker.sandbox.choice import Asked, Choice, Said
from worker.sandbox.link import LauncherLink

_sandboxes: Final = msgspec.json.Decoder(launching.Sandboxes).decode
_engines: Final = msgspec.json.Decoder(launching.Engines).decode

# What is inside, beside /work; tests hold it against what a program in there sees.
_SCRATCH: Final = "empty, in memory, gone at the end"
_SYSTEM: Final[Mapping[Mode, tuple[Mount, ...]]] = {
    "bubblewrap": (
        Mount(path="/", holds="nothing else"),
        Mount(path="/usr", holds="the machine's programs and libraries"),
        Mount(path="/etc", holds="what programs look up: users, certificates, names of libraries"),
    ),
    "docker": (
        Mount(path="/", holds="the image"),
        Mount(path="/etc", holds="the image's, with users and names of the sandbox's own"),
        Mount(path="/sys", holds="the machine's devices, as far as they are shown"),
    ),
}
_OWN: Final = (
    Mount(path="/proc", holds="the sandbox's own processes"),
    Mount(path="/dev", holds="null, zero, full, random, urandom, tty"),
    *(
        Mount(path=path, holds=_SCRATCH, writable=True)
        for path in ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108 - inside
    ),
)


@handles(sandbox_state.LIST)
async def list_sandboxes(
    call: CallContext, _params: sandbox_state.ListParams
) -> sandbox_state.ListResult:
    """Ask the launcher what runs for this tenant."""
    found = await _running(call.services.launcher)
    return sandbox_state.ListResult(
        sandboxes=[
            sandbox_state.RunningSandbox(
                sandbox_id=each.sandbox_id,
                kind=each.kind,
                name=each.name,
                mode=each.mode,
                argv=list(each.argv),
                started_at=each.started_at_ms,
                limits=_limits(each.caps),
            )
            for each in sorted(found.running, key=lambda each: each.started_at_ms)
        ],
        queued=found.queued,
    )


@handles(sandbox_state.KILL)
async def kill(call: CallContext, params: sandbox_state.KillParams) -> sandbox_state.KillResult:
    """Have the launcher end one; it knows whose it is."""
    named = launching.Named(sandbox_id=params.sandbox_id)
    await call.services.launcher.call("kill", named)
    return sandbox_state.KillResult(ok=True)


@handles(sandbox_state.STATUS)
async def status(
    call: CallContext, _params: sandbox_state.StatusParams
) -> sandbox_state.StatusResult:
    """Say what there is."""
    launcher = call.services.launcher
    engines, found = await _status(launcher), await _running(launcher)
    allowed = engines.ceilings
    return sandbox_state.StatusResult(
        modes=[
            sandbox_state.ModeStatus(mode=each.mode, usable=each.usable, detail=each.detail)
            for each in engines.engines
        ],
        default_mode=allowed.default_mode,
        images=list(allowed.images),
        networks=list(allowed.networks),
        limits=_limits(allowed.sandbox),
        wall_seconds=allowed.wall_seconds,
        running=len(found.running),
        queued=found.queued,
        concurrent=allowed.concurrent,
        queueable=allowed.queued,
        terminals=allowed.terminals,
        cgroups=engines.cgroups,
    )


@handles(sandbox_state.EXPLAIN)
async def explain(
    call: CallContext, params: sandbox_state.ExplainParams
) -> sandbox_state.ExplainResult:
    """Say what a call like this would get."""
    services = call.services
    environment.check_variables(params.env)
    environment.check_directory(params.cwd)
    if params.tool is not None and params.tool not in services.catalogue.tools:
        message = f"tool: no such tool; there are: {', '.join(services.catalogue.tools)}"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="tool")
    choice = await services.sandboxes.choose(Asked.of(params, params.tool))
    engines = await _status(services.launcher)
    mode = choice.mode.value
    engine = next(each for each in engines.engines if each.mode == mode)
    return sandbox_state.ExplainResult(
        profile=_profile(choice, engines, params.cwd),
        environment=_environment(choice, params.env),
        mounts=[
            *_SYSTEM[mode],
            *_OWN,
            Mount(path=launching.WORK, holds=f"sandbox/{params.name} of the tenant", writable=True),
        ],
        usable=engine.usable,
        detail=engine.detail,
    )


async def _running(launcher: LauncherLink) -> launching.Sandboxes:
    return _sandboxes(await launcher.call("list", {}))


async def _status(launcher: LauncherLink) -> launching.Engines:
    return _engines(await launcher.call("status", {}))


def _limits(caps: launching.Caps) -> sandbox_state.Limits:
    return sandbox_state.Limits(memory_bytes=caps.memory_bytes, cpus=caps.cpus, pids=caps.pids)


def _profile(choice: Choice, engines: launching.Engines, cwd: str) -> dict[str, Setting]:
    chosen: dict[str, Said[Any]] = {
        "mode": choice.mode,
        "image": choice.image,
        "network": Said(choice.network.value or launching.NO_NETWORK, choice.network.by),
        "wallSeconds": choice.wall_seconds,
        "memoryBytes": choice.memory_bytes,
        "cpus": choice.cpus,
        "pids": choice.pids,
    }
    # The same for every sandbox, whoever asks.
    fixed: dict[str, Any] = {
        "fileBytes": engines.ceilings.file_bytes,
        "heldBy": "cgroup" if engines.cgroups else "limits of each process",
        "uid": os.getuid(),
        "capabilities": "none",
        "newPrivileges": False,
        "seccomp": "allow-list",
    }
    place = Setting(value=cwd, source="gateway" if cwd == launching.WORK else "call")
    return {
        **{name: Setting(value=said.value, source=said.by) for name, said in chosen.items()},
        "cwd": place,
        **{name: Setting(value=value, source="gateway") for name, value in fixed.items()},
    }


def _environment(choice: Choice, given: Mapping[str, str]) -> dict[str, Setting]:
    proxied = {} if choice.network.value is None else environment.PROXIED
    base = {
        name: Setting(value=value, source="gateway")
        for name, value in (*environment.BASE.items(), *proxied.items())
    }
    return base | {name: Setting(value=value, source="call") for name, value in given.items()}

"""Runs the gateway in the foreground, from the state root to the exit code."""

import asyncio
import contextlib
import errno
import os
import resource
from collections.abc import Callable
from typing import Final

from cli.exits import ExitCode, fail
from protocol.errors import GatewayError, LinkClosedError
from supervisor import config as gateway_config
from supervisor import isolation
from supervisor.caps import report as caps
from supervisor.caps.place import UnusableError
from supervisor.logs import open_log
from supervisor.main import Reports, Supervisor
from supervisor.registry import RegistryUnwritableError
from supervisor.state import (
    LOCK_WAIT_SECONDS,
    LockedError,
    StateError,
    StateLock,
    StateRoot,
    default_root,
)
from supervisor.tls import CertificateError
from supervisor.zygote_process import SpawnError

_STANDARD_OUTPUT: Final = 1


def run(port: int | None) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; ends the command with a message where it cannot.

    Args:
        port: Stands for `gateway.port`.
    """
    os.umask(0o077)
    # Every worker takes a few descriptors here; the usual soft limit is for programs with select().
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        state = StateRoot(default_root())
        config = gateway_config.load(state.config, port=port)
        state.prepare()
        lock = state.acquire(LOCK_WAIT_SECONDS)
    except gateway_config.ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    except StateError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    except LockedError as error:
        fail(f"{error}: is a gateway running already?", ExitCode.TRY_LATER)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = f"{error.filename or default_root()}: {error.strerror}"
        fail(reason, ExitCode.TRY_LATER if full else ExitCode.CONFIGURATION)
    try:
        with lock, caps.hold(config.caps.cgroup, state.path) as caps_report:
            _serve(
                state,
                lock,
                config,
                lambda: gateway_config.load(state.config, port=port),
                caps_report,
            )
    except UnusableError as error:
        fail(str(error), ExitCode.CONFIGURATION)


def _serve(
    state: StateRoot,
    lock: StateLock,
    config: gateway_config.Config,
    read_config: Callable[[], gateway_config.Config],
    caps_report: caps.Report,
) -> None:
    try:
        report = isolation.examine(config.isolation)
    except isolation.BelowMinimumError as error:
        fail(str(error), ExitCode.CONFIGURATION)

    def banner(url: str) -> None:
        held = f"{report.summary()} · {caps_report.summary()}"
        line = f"openclaw gateway · {url} · {held} · {state.path}\n"
        # Not by print: whoever cannot hear it must not end the gateway, nor change its exit code.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_OUTPUT, line.encode(errors="replace"))

    async def run() -> None:
        log = open_log(state.log)
        supervisor = Supervisor(state, lock, config, read_config, Reports(report, caps_report), log)
        await supervisor.serve(banner)

    try:
        asyncio.run(run())
    except OSError as error:
        address = f"{config.gateway.host}:{config.gateway.port}"
        fail(f"the gateway cannot run on {address}: {error.strerror or error}")
    except (LinkClosedError, SpawnError, TimeoutError) as error:
        what = "zygote" if isinstance(error, SpawnError) else "front"
        reason = f"the {what} does not start ({error}); {state.log} says why"
        fail(reason, ExitCode.WOULD_FAIL_AGAIN)
    except (GatewayError, RegistryUnwritableError) as error:
        fail(str(error), ExitCode.TRY_LATER)
    except (StateError, CertificateError) as error:
        fail(str(error), ExitCode.CONFIGURATION)

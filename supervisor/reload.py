"""Reading `config.yaml` again while everything runs.

What can change does; what is decided once, at the start, stays as it is and is named. A file that
cannot be used changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from protocol.control.shapes import Reloaded
from protocol.errors import ErrorCode, GatewayError
from supervisor.config import Config, ConfigError
from supervisor.config_models import AgentsSection, EgressSection
from supervisor.keeper import START_ERRORS
from supervisor.logs import Log
from supervisor.notify import Notifier
from supervisor.tls import CertificateError

LIVE: Final = frozenset(
    {
        "gateway.tls",
        "gateway.allowed_hosts",
        "gateway.allowed_origins",
        "gateway.trusted_proxies",
        "gateway.connections_per_address",
        "worker.idle_seconds",
        "worker.memory_bytes",
        "caps.memory_bytes",
        "caps.cpus",
        "caps.pids",
        "caps.disk_bytes",
        "caps.disk_inodes",
        "caps.disk_floor_bytes",
        "alerts.command",
        "providers",
        "models",
        *(f"agents.{field}" for field in AgentsSection.__struct_fields__),
        "billing.unpriced",
        "billing.rate_card",
        "billing.sandbox_second",
        "billing.egress_gib",
        *(f"egress.{field}" for field in EgressSection.__struct_fields__),
    }
)
"""The keys that take effect without a restart of the gateway.

Of `tls` only other files; `worker.memory_bytes` is that of workers that start from then on.
"""


class Comparison(NamedTuple):
    """What is written against what is in force; `config` is what can be in force now."""

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def compare(present: Config, written: Config) -> Comparison:
    """Say what of a newly read file can take effect."""
    applied, needs_restart, sections = [], [], {}
    for section in Config.__struct_fields__:
        before, after = getattr(present, section), getattr(written, section)
        if isinstance(before, dict):  # of names, which an operator gives
            sections[section] = after
            if before != after:
                applied.append(section)
            continue
        changes = {}
        for field in before.__struct_fields__:
            key, old, new = f"{section}.{field}", getattr(before, field), getattr(after, field)
            if old == new:
                continue
            if key in LIVE and (key != "gateway.tls" or None not in (old, new)):
                applied.append(key)
                changes[field] = new
            else:
                needs_restart.append(key)
        sections[section] = msgspec.structs.replace(before, **changes)
    return Comparison(Config(**sections), tuple(applied), tuple(needs_restart))


class Reloadable(Protocol):
    """What a reload changes; the supervisor provides it."""

    async def apply(self, config: Config) -> None:
        """Have this configuration be in force.

        Raises:
            CertificateError, GatewayError, OSError: the front or the certificate refuses; nothing
                has changed.
        """

    async def reread_registry(self) -> None:
        """Take over what was changed in the registry by somebody else."""

    async def renew_zygote(self) -> int:
        """Have another zygote fork from now on; gives its pid. There is always one.

        Raises:
            OSError, LinkClosedError, SpawnError, TimeoutError: it does not start.
        """


class Reloader:
    """Reloads, one at a time.

    Args:
        config: What is in force at first.
        read: Reads the file; raises ConfigError.
        what: What it is done to.
        log: Where it is told.
        notifier: For the service manager.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Awaitable[Config]],
        what: Reloadable,
        log: Log,
        notifier: Notifier,
    ) -> None:
        self.config = config
        """What is in force."""
        self._read: Final = read
        self._what: Final = what
        self._log: Final = log
        self._notifier: Final = notifier
        self._turn: Final = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read the file again and renew what can be renewed.

        Raises:
            GatewayError: INVALID_REQUEST, naming the key, when the file cannot be used: nothing has
                changed. UNAVAILABLE when the next zygote does not start: the rest is in force.
        """
        async with self._turn:
            self._notifier.reloading()
            try:
                done = await self._reload()
            except GatewayError as error:
                self._log.error("reload failed", error=error.message)
                raise
            finally:
                self._notifier.say("READY=1")
            self._log.info("reloaded", **msgspec.structs.asdict(done))
            return done

    async def _reload(self) -> Reloaded:
        try:
            written = await self._read()
        except ConfigError as error:
            msg = f"{error}; the configuration stays as it was"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg) from error
        before = self.config
        self.config, applied, needs_restart = compare(before, written)
        try:
            await self._what.apply(self.config)
        except (CertificateError, GatewayError, OSError) as error:
            self.config = before
            msg = f"gateway: {error}; the configuration stays as it was"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg) from error
        await self._what.reread_registry()
        try:
            pid = await self._what.renew_zygote()
        except START_ERRORS as error:
            msg = f"the next zygote does not start ({error}); the present one forks on"
            raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error
        return Reloaded(applied=applied, needs_restart=needs_restart, zygote_pid=pid)

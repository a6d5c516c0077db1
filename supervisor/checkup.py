"""What `openclaw doctor` finds: each step of the jail, whether it holds, and what it is for."""

import os
from typing import Final

import apsw
import msgspec

from protocol.errors import GatewayError
from supervisor.caps import report as caps_report
from supervisor.config import Config, SandboxSection
from supervisor.egress.rates import RateCard
from supervisor.isolation import Report
from supervisor.launcher import bwrap
from supervisor.registry import sqlite_is_sound
from supervisor.zygote import jail

# What a worker that has been taken over could do if this one step were missing.
LOST_WITHOUT: Final = {
    "validate": "a crooked path could show it every tenant",
    "close_descriptors": "it would hold whatever the gateway had open",
    "new_session": "it could write to the operator's terminal",
    "limit_resources": "it could use up files, threads and disk, and dump core with secrets",
    "enter_namespaces": "it would see and signal other processes, and use the network",
    "build_root": "there would be no file system of its own to go to",
    "die_with_supervisor": "it would go on after the gateway is gone",
    "forbid_dumps": "processes of the same uid could read its memory",
    "open_directory": "a crooked id could point the jail at somebody else's directory",
    "change_root": "it would see the whole file system, other tenants' names included",
    "drop_identity": "it would be root, or share one uid with other tenants",
    "drop_capabilities": "it could change mounts and networks of its namespaces",
    "enter_directory": "it could run in a directory that others can read or that was swapped",
    "forbid_new_privileges": "a set-id program would give it privileges",
    "restrict_files": "it could read whatever its uid and root directory allow, and make links",
    "filter_system_calls": "every system call of the kernel would be open to it",
}


class Check(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line. `without` is what is lost where it does not hold."""

    name: str
    holds: bool
    what: str
    detail: str | None = None
    without: str | None = None


def steps(report: Report) -> list[Check]:
    """Say for each step of the jail whether it holds here."""
    taken = dict.fromkeys(jail.AHEAD + jail.OWN)  # some are taken twice
    return [_step(step.__name__, step.__doc__ or "", report) for step in taken]


def _step(name: str, what: str, report: Report) -> Check:
    found = report.found
    detail: str | None = None
    holds = True
    if name in ("enter_namespaces", "build_root", "change_root"):
        holds, detail = found.namespaces is None, found.namespaces
    elif name == "drop_identity":
        detail = (
            "a uid per tenant" if found.root else "one uid for all tenants: namespaces part them"
        )
    elif name == "restrict_files":
        holds = found.landlock_abi > 0
        detail = f"Landlock ABI {found.landlock_abi}" if holds else "this kernel has no Landlock"
    elif name == "filter_system_calls":
        holds, detail = found.seccomp is None, found.seccomp
    elif found.step is not None and name in found.step:
        holds, detail = False, found.step
    return Check(
        name=name,
        holds=holds,
        what=what.splitlines()[0],
        detail=detail,
        without=LOST_WITHOUT[name],
    )


def caps(report: caps_report.Report) -> Check:
    """Say whether what tenants use together can be capped."""
    return Check(
        name="caps",
        holds=not report.refusal,
        what="What a tenant's processes use together can be capped.",
        detail=report.refusal or report.summary().removeprefix("caps: "),
        without="one tenant's sandboxes can use up memory, processors and process ids of all",
    )


def egress(report: Report) -> Check:
    """Say whether egress is kept from the files of tenants and of the gateway."""
    closed = report.found.root or report.found.landlock_abi > 0
    return Check(
        name="egress",
        holds=closed,
        what="What connects out opens no file of tenants or the gateway.",
        detail=None if closed else "one uid for all, and this kernel has no Landlock",
        without="one that is taken over could read what the gateway's uid can",
    )


def models(config: Config) -> list[Check]:
    """Say whether every model that is configured can be asked; nothing where there is none."""
    if not config.models:
        return []
    card, unpriced = RateCard(config.billing.billing()), []
    for model in config.models:
        try:
            card.check(model)
        except GatewayError:
            unpriced.append(model)
    names = ", ".join(unpriced)[:512]
    return [
        Check(
            name="models",
            holds=not unpriced,
            what="Every model has a price, or need not have one.",
            detail=f"billing.rate_card has none for {names}" if unpriced else None,
            without="such a model is refused; billing.unpriced: allow has it cost nothing",
        )
    ]


def docker(section: SandboxSection) -> list[Check]:
    """Say whether sandboxes can be had of Docker; nothing where it is not set up."""
    asked = section.docker
    if "docker" not in section.allowed or not (asked.images or section.mode == "docker"):
        return []
    from supervisor.launcher import docker_client  # noqa: PLC0415 - few configurations have it

    holds, detail = docker_client.look(asked.host, asked.runtime, asked.images)
    if not asked.images:
        holds, detail = False, "no image is named in sandbox.docker.images"
    return [
        Check(
            name="docker",
            holds=holds,
            what="Tenants' programs can be run in sandboxes of the mode docker.",
            detail=detail,
            without="sandboxes of that mode are refused; they are never made another way",
        )
    ]


def surroundings(report: Report) -> list[Check]:
    """Say what holds beside the jail."""
    sqlite, found = sqlite_is_sound(), bwrap.find()
    return [
        Check(
            name="minimum",
            holds=not report.missing,
            what="Tenants can be kept apart on this machine.",
            detail=" ".join(report.missing) or None,
            without="the gateway does not start, unless isolation.mode is none",
        ),
        Check(
            name="sqlite",
            holds=sqlite,
            what="SQLite has no known corruption.",
            detail=apsw.sqlite_lib_version(),
            without="databases can be corrupted when a log is reset",
        ),
        Check(
            name="bubblewrap",
            holds=not found.lacking,
            what="Tenants' programs can be run in sandboxes of the mode bubblewrap.",
            detail=found.lacking or found.path,
            without="sandboxes of that mode are refused; they are never made another way",
        ),
        Check(
            name="caller",
            holds=True,
            what="Who runs this.",
            detail="root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        ),
    ]

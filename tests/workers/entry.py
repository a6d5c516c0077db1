"""What the test's zygote runs: a tenant's id says how its worker behaves.

`<behaviour>` misbehaves in its first generation, `always-<behaviour>` in every one; every other
generation and every other tenant is the real worker.
"""

import os
from typing import NoReturn

import msgspec

from protocol.descriptors import WorkerDescriptors
from protocol.spawn import WorkerSpec
from tests.workers import breaches, faults, fill, greed, hangs, poison, slow, spenders, starts
from tests.workers.puppet import Program
from worker import main as worker

ALWAYS = "always-"
MARK = "misbehaved"
MENDED = "mended"
BEHAVIOURS: dict[str, Program] = {
    **starts.PROGRAMS,
    **hangs.PROGRAMS,
    **fill.PROGRAMS,
    **greed.PROGRAMS,
    **breaches.PROGRAMS,
    **slow.PROGRAMS,
    **faults.PROGRAMS,
    **poison.PROGRAMS,
    **spenders.PROGRAMS,
}
_decode = msgspec.msgpack.Decoder(WorkerSpec).decode


def run(spec: bytes, fds: WorkerDescriptors) -> NoReturn:
    """Be the worker of a tenant."""
    told = _decode(spec)
    program = BEHAVIOURS.get(told.tenant.removeprefix(ALWAYS))
    if program is not None and _misbehaves(told.tenant):
        program(spec, fds)
    worker.run(spec, fds)


def _misbehaves(tenant: str) -> bool:
    """Look at the marks in the tenant's directory, which is the working directory."""
    if os.path.exists(MENDED):  # noqa: PTH110 - pathlib looks into /proc for some of this
        return False
    try:
        os.close(os.open(MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return tenant.startswith(ALWAYS)
    return True

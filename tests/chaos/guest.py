"""What runs in the machine whose power is cut: `guest.py <state root> <acks> <report> <name>`.

Checks the state root against what was acknowledged before, once a gateway serves on it, says the
verdict, and writes until the end. Each acknowledgement goes to the report, a line each, when its
client has been answered.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from tests.chaos.clients import Client, Operator, Writer
from tests.chaos.ledger import Ack, Ledger, check, read_acks
from tests.e2e import gateway as running
from tests.e2e.gateway import Gateway

TENANTS = ("acme", "globex")
SETUP = "setup"
START_SECONDS = 120.0


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """What the check found, before anything new was written."""

    broken: list[str]
    boot_seconds: float
    checked: int


class Blame(msgspec.Struct, frozen=True, tag=True):
    """What a client saw that must never be seen."""

    what: str


def main() -> None:
    root, acks_path, report_path, name = sys.argv[1:]
    with Path(acks_path).open("rb") as file:  # a disk: text, then zeros
        acks = read_acks(file.read().rstrip(b"\0").splitlines(keepends=True))
    report = os.open(report_path, os.O_WRONLY | os.O_NOCTTY)

    def tell(line: bytes) -> None:
        os.write(report, line)

    running.START_SECONDS = START_SECONDS
    with Gateway(Path(root)) as gateway:
        broken = check(Path(root), acks)
        verdict = Verdict(broken, time.monotonic(), len(acks))
        tell(msgspec.json.encode(verdict) + b"\n")
        if not broken:
            write(gateway, acks, name, tell)


def write(gateway: Gateway, acks: list[Ack], name: str, tell: Callable[[bytes], None]) -> None:
    ledger = Ledger(lambda ack: tell(ack.line()))
    tokens = {ack.tenant: ack.token for ack in acks if ack.by == SETUP}
    for tenant in TENANTS:
        if tenant not in tokens:
            tokens[tenant] = gateway.create(tenant)
            ledger.add(Ack("created", SETUP, tenant, token=tokens[tenant]))
    key = (gateway.state_dir / "admin.key").read_text().strip()
    clients: list[Client] = [
        Writer(f"{tenant}-{name}", gateway.address, ledger, tenant, tokens[tenant])
        for tenant in TENANTS
    ]
    clients.append(Operator(f"op-{name}", gateway.address, ledger, key))
    for client in clients:
        client.start()
    while True:  # the power ends it
        if ledger.broken:
            tell(msgspec.json.encode(Blame("; ".join(ledger.broken))) + b"\n")
            return
        Event().wait(0.2)


if __name__ == "__main__":
    main()

"""A till of its own process, that spends as fast as it can: to be killed at any moment.

`python -m tests.workers.till_program <directory> <tokens a day> <seed>` says on standard output, a
line each, what was reserved (`r <id>`) and what was settled (`s <id> <micro-USD>`), after it was
told so itself, and `full` before it ends by itself since nothing fits any more.
"""

import asyncio
import os
import random
import sys

import uvloop

from protocol.egress import Billing, Price, Settings
from protocol.errors import GatewayError
from protocol.models import Spent
from protocol.quotas import Quota
from supervisor.egress.ledger_till import LedgerTill, open_till
from supervisor.egress.till import Estimate, Purpose

CALLS = 32
NOW_MS = 1_795_000_000_000
BILLING = Billing(rate_card={"m": Price(input=1_500_000, output=2_000_000)})


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # at once, and whole


async def spend(till: LedgerTill, chance: random.Random) -> None:
    while True:
        estimate = Estimate(chance.randrange(50), chance.randrange(1, 50))
        reservation = await till.reserve("acme", Purpose("m", "fake"), estimate)
        say(f"r {reservation.id}")
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)  # what the provider takes
        if chance.random() < 0.2:
            await till.release(reservation)
            continue
        spent = Spent(
            input=chance.randint(0, estimate.input_tokens),
            output=chance.randint(0, estimate.output_tokens),
        )
        charge = await till.settle(reservation, spent)
        say(f"s {reservation.id} {charge.cost_micro_usd}")


async def main(directory: str, tokens: int, seed: int) -> None:
    chance = random.Random(seed)
    settings = Settings(ledger_directory=directory, billing=BILLING)
    till = await open_till(settings, lambda _standing: None, lambda: NOW_MS)
    till.limit("acme", Quota(tokens_per_day=tokens))
    ended = await asyncio.gather(
        *(spend(till, chance) for _ in range(CALLS)), return_exceptions=True
    )
    assert all(isinstance(error, GatewayError) for error in ended), ended
    say("full")
    till.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

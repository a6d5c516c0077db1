"""A front that is owned: confines itself, attacks, then serves one connection.

Arguments: its jail (msgpack, hex), its order (hex), the steps to leave out (JSON). Descriptor 3 is
its link to the supervisor, 4 a listening socket.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import uvloop

from supervisor.zygote import jail
from supervisor.zygote.spec import JailSpec
from tests.attack import attacks
from tests.attack.attacker import Order, look_around

DEADLINE_SECONDS = 10.0


async def serve_one(listener: socket.socket) -> None:
    """Answer one connection with what it sent."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        done.set()

    server = await asyncio.start_server(answer, sock=listener)
    async with asyncio.timeout(DEADLINE_SECONDS), server:
        await done.wait()


if __name__ == "__main__":
    spec = msgspec.msgpack.decode(bytes.fromhex(sys.argv[1]), type=JailSpec)
    order = msgspec.json.decode(bytes.fromhex(sys.argv[2]), type=Order)
    skipped = json.loads(sys.argv[3])
    steps = [step for step in jail.AHEAD + jail.OWN if step.__name__ not in skipped]
    jail.confine_or_exit(jail.Confinement(spec, supervisor=3, keep=frozenset((4,))), steps)
    seen = look_around(order)
    report = {name: attacks.attempt(name, order.target) for name in order.attacks}
    with socket.socket(fileno=3) as supervisor, socket.socket(fileno=4) as listener:
        supervisor.sendall(json.dumps({"attacks": report, "self": seen}).encode())
        supervisor.sendall(b"\n")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_one(listener))

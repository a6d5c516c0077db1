"""A supervisor that is there to be killed: starts a zygote and one worker, prints their pids.

Arguments: the zygote's options, the worker's jail (msgpack, hex), its order (hex) and the
descriptor that becomes the worker's standard error.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from protocol import descriptors
from supervisor.zygote import main, seccomp
from supervisor.zygote.spec import JailSpec, Order, Spawn, Spawned, Start
from tests.attack.harness import next_reply

if __name__ == "__main__":
    options, jail, order, errors = sys.argv[1:]
    channel, theirs = descriptors.pair()
    command = main.command(theirs.fileno())
    command[2] = str(Path(__file__).with_name("attacker.py"))
    zygote = subprocess.Popen([*command, options], env={}, pass_fds=[theirs.fileno()])
    start = Start(policy=seccomp.compiled("zygote"))
    descriptors.send(channel, msgspec.msgpack.encode(start))
    link, their_link = socket.socketpair()
    worker_channel, their_channel = descriptors.pair()
    ready, their_ready = os.pipe()
    spec = msgspec.msgpack.decode(bytes.fromhex(jail), type=JailSpec)
    message = msgspec.msgpack.encode(Spawn(request=1, jail=spec.shape))
    told = Order(tenant=spec.tenant, uid=spec.uid, gid=spec.gid, entry=bytes.fromhex(order))
    descriptors.send(worker_channel, msgspec.msgpack.encode(told))
    attached = [their_link.fileno(), their_channel.fileno(), their_ready, int(errors)]
    descriptors.send(channel, message, attached)
    for end in (their_link, their_channel):
        end.close()
    os.close(their_ready)
    os.close(int(errors))
    reply = next_reply(channel)
    assert isinstance(reply, Spawned), reply
    assert os.read(ready, 1) == b"r"
    sys.stdout.write(json.dumps({"zygote": zygote.pid, "worker": reply.pid}) + "\n")
    sys.stdout.flush()
    signal.pause()

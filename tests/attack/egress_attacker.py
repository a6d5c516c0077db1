"""An egress that is owned: confines itself, does what it is for, then attacks.

Arguments: its settings (msgpack, hex), its order (hex). Descriptor 3 is its link to the supervisor.
"""

import json
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import apsw
import msgspec

from protocol.egress import Settings
from supervisor.egress.confinement import confine
from tests.attack import attacks
from tests.attack.attacker import Order, look_around

DEADLINE_SECONDS = 10.0


def do_its_work(port: int) -> dict[str, object]:
    """Look a name up, connect, keep a ledger."""
    (found, *_) = socket.getaddrinfo("localhost", port, socket.AF_INET, socket.SOCK_STREAM)
    host = str(found[4][0])
    with socket.create_connection((host, port), DEADLINE_SECONDS) as client:
        client.sendall(b"over the wire\n")
        with client.makefile("rb") as answer:
            said = answer.readline().decode()
    connection = apsw.Connection("test.sqlite")
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("temp_store", "memory")
    connection.execute("create table t(a)")
    connection.execute("insert into t values(1)")
    count = connection.execute("select count(*) from t").get
    connection.close()
    return {"said": said, "rows": count}


def listen() -> str:
    """Listen on a socket that is bound to nothing: the kernel would pick a port."""
    with socket.socket() as server:
        try:
            server.listen()
        except OSError as error:
            return str(error.errno)
        return f"listens on {server.getsockname()}"


def bind() -> str:
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", 0))
        except OSError as error:
            return str(error.errno)
        return f"bound to {server.getsockname()}"


if __name__ == "__main__":
    settings = msgspec.msgpack.decode(bytes.fromhex(sys.argv[1]), type=Settings)
    order = msgspec.json.decode(bytes.fromhex(sys.argv[2]), type=Order)
    confine(settings)
    with open("own", "wb") as file:  # noqa: PTH123
        file.write(b"mine")
    report = {
        "self": look_around(order),
        "work": do_its_work(order.target.port),
        "listen": listen(),
        "bind": bind(),
        "attacks": {name: attacks.attempt(name, order.target) for name in order.attacks},
    }
    with socket.socket(fileno=os.dup(3)) as supervisor:
        supervisor.sendall(json.dumps(report).encode())

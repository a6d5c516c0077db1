"""A client that asks for trouble: `poke.py <settings as JSON>`, as a process of its own.

Settings are `{"address", "token", "method", "params", "connections"}`. Each connection makes the
call again and again. It writes `ready` after the first answer of each; it ends with its standard
input, and then writes `{"<status>": count, …}` and up to `KEPT` of the answers, a line each.
"""

import collections
import http.client
import json
import os
import sys
import threading
from typing import Any

KEPT = 20
CALL_SECONDS = 30.0
PAUSE_SECONDS = 0.02
"""After a refusal; without one it would be this process that is measured."""


class Poke:
    """Its connections, and what they were answered."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": settings["method"], "params": settings["params"]}
        )
        self._headers = {
            "Authorization": f"Bearer {settings['token']}",
            "Content-Type": "application/json",
        }
        self.counts: collections.Counter[str] = collections.Counter()
        self.kept: collections.deque[Any] = collections.deque(maxlen=KEPT)
        self.over = threading.Event()

    def run(self, begun: threading.Semaphore) -> None:
        """Call until it is over."""
        first = True
        while not self.over.is_set():
            status = self._call()
            self.counts[status] += 1
            if first:
                begun.release()
                first = False
            if status != "200":
                self.over.wait(PAUSE_SECONDS)

    def _call(self) -> str:
        connection = http.client.HTTPConnection(self._settings["address"], timeout=CALL_SECONDS)
        try:
            connection.request("POST", "/rpc", self._body, self._headers)
            response = connection.getresponse()
            self.kept.append(json.loads(response.read()))
            return str(response.status)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()


def main() -> None:
    settings = json.loads(sys.argv[1])
    poke, begun = Poke(settings), threading.Semaphore(0)
    count = settings["connections"]
    threads = [threading.Thread(target=poke.run, args=(begun,), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        begun.acquire()
    say("ready")
    sys.stdin.read()
    poke.over.set()
    say(json.dumps(poke.counts))
    for answer in list(poke.kept):
        say(json.dumps(answer))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Where it would run is another machine: it takes no processor from whom it wakes (sched(7)).
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    main()

"""Workers that spend: whatever a client asks, they ask egress, past all that a real one minds."""

import os
import socket
from collections import Counter
from typing import Any

import msgspec

from protocol import frames
from protocol.codec import FrameDecoder, encode
from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import READ_BYTES, Program, Puppet

ASKED = 200
SAID = {"messages": [{"role": "user", "content": [{"type": "text", "text": "more"}]}]}


class Spender(Puppet):
    """A client's parameters say what it is to ask; it tells how often it got which answer."""

    def __init__(self, fds: WorkerDescriptors) -> None:
        super().__init__(fds)
        self._last = 0

    def on_call(self, front: socket.socket, call: frames.Call) -> None:
        wanted = msgspec.json.decode(call.params)
        told = self.spend(wanted.get("model", "fake"), wanted.get("search", ""))
        front.sendall(encode(frames.Result(call.id, msgspec.json.encode(told))))

    def spend(self, model: str, how: str) -> dict[str, Any]:
        assert self.egress is not None
        if how == "ledger":
            return {"opened": self._ledgers()}
        if how == "quotas":
            # What only the supervisor may say: that there are no limits.
            mine = {"tenant": "always-spends", "quota": {}}
            body = msgspec.json.encode({"quotas": [mine]})
            self.egress.sendall(encode(frames.Event("quota", msgspec.json.encode(mine))))
            self.egress.sendall(encode(frames.Call(self._last + 1, "quotas", body)))
            return {}
        for _ in range(ASKED):
            self._last += 1
            claim = {"tenant": "globex"} if how == "claim" else {}
            request = SAID | {"model": model, "run_id": f"r{self._last}", "max_tokens": 1} | claim
            params = msgspec.json.encode(request)
            self.egress.sendall(encode(frames.Call(self._last, "model", params)))
        return {"answers": self._answers(ASKED)}

    def _answers(self, count: int) -> dict[str, int]:
        assert self.egress is not None
        decoder, found = FrameDecoder(), Counter[str]()
        while found.total() < count:
            data = self.egress.recv(READ_BYTES)
            if not data:
                found["closed"] = count
                break
            for frame in decoder.feed(data):
                found[frame.code if isinstance(frame, frames.Failure) else "ok"] += 1
        return dict(found)

    def _ledgers(self) -> list[str]:
        """The ledgers that it finds: everywhere that it can go."""
        found = []
        for top in ("/", "..", "../..", "../../..", f"/proc/{os.getppid()}/root"):
            for path in ("ledger/ledger.sqlite", "ledger.sqlite"):
                try:
                    os.close(os.open(f"{top}/{path}", os.O_RDWR))
                    found.append(f"{top}/{path}")
                except OSError:
                    continue
        return found


PROGRAMS: dict[str, Program] = {"spends": Spender.program}

"""The feeds of the turns that somebody follows, whichever generation runs them.

A turn that runs here fills its feed. One that waits, or runs in another generation, is a row that
is looked at now and then: its watchers hear how it ended, without its text meanwhile.
"""

import asyncio
from collections import deque
from typing import Final

import apsw

from protocol.errors import ErrorCode, GatewayError
from worker import log
from worker.sessions import reads
from worker.sessions.feed import Feed, TurnResult
from worker.store.database import Database

LOOK_SECONDS: Final = 0.1
LOOKS_AT_ONCE: Final = 64


class Feeds:
    """See the module.

    Args:
        database: Where the rows are.
    """

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._feeds: Final[dict[str, Feed]] = {}
        self._elsewhere: Final[deque[str]] = deque()  # bounded by the calls that follow a turn
        self._timer: asyncio.TimerHandle | None = None

    def of_running(self, run_id: str) -> Feed:
        """Give the feed of a turn that begins to run here."""
        feed = self._feeds.get(run_id)
        if feed is None:
            feed = self._feeds[run_id] = Feed()
        elif run_id in self._elsewhere:
            self._elsewhere.remove(run_id)
        return feed

    def forget(self, run_id: str) -> None:
        """Let go of the feed of a turn that has ended here."""
        self._feeds.pop(run_id, None)

    def observe(self, run_id: str) -> Feed | TurnResult:
        """Give the feed of a turn that runs or waits, else how it ended.

        Raises:
            GatewayError: NOT_FOUND: there is no such turn; or the storage refused.
        """
        feed = self._feeds.get(run_id)
        if feed is not None:
            return feed
        run = self.row(run_id)
        if not run.is_open:
            return self.stored(run)
        feed = self._feeds[run_id] = Feed()
        self._elsewhere.append(run_id)
        self._look_later()
        return feed

    def row(self, run_id: str) -> reads.Run:
        """Give a turn by its id. Raises as `observe`."""
        run = reads.run(self._database.read(), run_id)
        if run is None:
            raise GatewayError(ErrorCode.NOT_FOUND, "no such turn", field="runId")
        return run

    def stored(self, run: reads.Run) -> TurnResult:
        """Give how a turn stands by its row."""
        if run.is_open:
            return TurnResult(run.state)
        reply = None
        if run.reply_seq is not None:
            reply = reads.message(self._database.read(), run.reply_seq)
        return TurnResult(run.state, reply, run.usage, run.error, error_code=run.error_code)

    def let_go(self, *, of_running: bool) -> None:
        """Tell those who follow a turn that waits how it stands: this worker ends.

        Args:
            of_running: Also those who follow one that another generation runs.
        """
        for run_id in list(self._elsewhere):
            result: TurnResult | GatewayError
            try:
                result = self.stored(self.row(run_id))
            except GatewayError as error:
                result = error
            if of_running or isinstance(result, GatewayError) or result.state != "running":
                self._elsewhere.remove(run_id)
                self._feeds.pop(run_id).finish(result)

    def look(self) -> None:
        """Tell those who follow turns that do not run here which of them have ended."""
        try:
            for _ in range(min(len(self._elsewhere), LOOKS_AT_ONCE)):
                run_id = self._elsewhere[0]
                run = reads.run(self._database.read(), run_id)
                self._elsewhere.popleft()
                if run is not None and run.is_open:
                    self._elsewhere.append(run_id)
                    continue
                feed = self._feeds.pop(run_id)
                if run is None:
                    feed.finish(GatewayError(ErrorCode.NOT_FOUND, "the turn was removed"))
                else:
                    feed.finish(self.stored(run))
        except (GatewayError, apsw.Error) as error:
            log.failure("cannot look at turns", error)
        if self._elsewhere:
            self._look_later()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()

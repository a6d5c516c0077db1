"""Workers whose start goes wrong."""

import os
from typing import NoReturn

from protocol.descriptors import WorkerDescriptors
from protocol.spawn import WorkerSpec
from tests.workers.puppet import Puppet, pause
from worker import main as worker

SLOW_SECONDS = 1.0


class NeverReady(Puppet):
    """It lives and does nothing."""

    def before_ready(self) -> None:
        while True:
            pause()


class NoReadinessByte(Puppet):
    """It closes the pipe and says nothing; beside that it is a good worker."""

    def run(self) -> NoReturn:
        os.close(self.fds.ready)
        while True:
            self._turn()


class SlowReady(Puppet):
    """A good worker, after a while."""

    def run(self) -> NoReturn:
        pause(SLOW_SECONDS)
        self.supervisor.detach()
        self.channel.detach()
        worker.run(worker._spec_encoder(self.spec), self.fds)


class _Exits(Puppet):
    code = 0

    def before_ready(self) -> None:
        os._exit(self.code)


class ExitsWith0(_Exits):
    """It ends as one that has drained, unasked."""


class ExitsWith1(_Exits):
    code = 1


class ExitsWith3(_Exits):
    code = 3


class ExitsWith78(_Exits):
    code = 78


class RaisesAtOnce(Puppet):
    """An exception that nobody takes, with a secret in its text."""

    def before_ready(self) -> None:
        raise RuntimeError("the programs's last words")

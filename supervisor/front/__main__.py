"""`python -m supervisor.front`: the front as the supervisor starts it, confined."""

import sys

import msgspec

from protocol.spawn import FrontSpec
from supervisor.front.main import main
from supervisor.zygote.jail import AHEAD, OWN, Confinement, confine_or_exit
from supervisor.zygote.spec import JailSpec


def _confine(spec: FrontSpec, link: int, keep: frozenset[int]) -> None:
    jail = msgspec.msgpack.decode(spec.jail, type=JailSpec)
    confine_or_exit(Confinement(jail, supervisor=link, keep=keep), AHEAD + OWN)


sys.exit(main(sys.argv[1:], _confine))

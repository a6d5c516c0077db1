"""`rpc.discover`: the OpenRPC document of this gateway."""

from typing import Any, Final

from protocol.methods.registry import Params, Scope, declare


class DiscoverParams(Params, frozen=True, kw_only=True):
    """None."""


DISCOVER: Final = declare(
    "rpc.discover",
    params=DiscoverParams,
    result=dict[str, Any],
    scope=Scope.READ,
    idempotent=True,
    doc="Give the OpenRPC document: every method with its parameters, result and scope.",
)

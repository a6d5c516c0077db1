"""Calls of tenants that the supervisor answers, since no worker may do what they ask for.

Which they are is told by the supervisor; the front knows no method. A tenant has only few of them
at a time and in a while, for the supervisor is everybody's.
"""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from protocol import limits
from protocol.aio import OnReply, Reply
from protocol.errors import ErrorCode, GatewayError, LinkClosedError, LocalProtocolError
from protocol.pieces import Pieces
from protocol.spawn import TenantRequest

RETRY_MS: Final = 1000


class Asking(Protocol):
    """A call on its way; see `tenants.Pending`."""

    method: str
    params: bytes | Pieces
    scopes: int
    token_id: str

    def on_reply(self, reply: Reply) -> None:
        """Take the answer."""

    def fail(self, error: GatewayError) -> None:
        """It will not be answered."""


class Supervised:
    """See the module.

    Args:
        methods: Their names.
        ask: Calls the supervisor; raises LinkClosedError or LocalProtocolError when it cannot.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        methods: frozenset[str],
        ask: Callable[[str, bytes, OnReply], None],
        now: Callable[[], float],
    ) -> None:
        self.methods: Final = methods
        self._ask: Final = ask
        self._now: Final = now
        self._open: Final[dict[str, int]] = {}
        self._window = 0
        self._asked: Final[dict[str, int]] = {}

    def start(self, tenant: str, call: Asking) -> None:
        """Ask the supervisor, for the tenant and the scopes that were authenticated.

        Raises:
            GatewayError: RATE_LIMITED, PAYLOAD_TOO_LARGE or UNAVAILABLE; nobody will answer.
        """
        if len(call.params) > limits.TENANT_REQUEST_BYTES_MAX:
            msg = f"the params have more than {limits.TENANT_REQUEST_BYTES_MAX} bytes"
            raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, msg)
        self._count(tenant)
        request = TenantRequest(
            tenant=tenant,
            token_id=call.token_id,
            scopes=call.scopes,
            method=call.method,
            params=bytes(call.params),
        )

        def answered(reply: Reply) -> None:
            self._close(tenant)
            if isinstance(reply, LinkClosedError):
                call.fail(_unavailable("the gateway is stopping"))
            else:
                call.on_reply(reply)

        self._open[tenant] = self._open.get(tenant, 0) + 1
        try:
            self._ask("tenant.request", msgspec.json.encode(request), answered)
        except (LinkClosedError, LocalProtocolError) as error:
            self._close(tenant)
            raise _unavailable("the supervisor cannot be asked now") from error

    def _count(self, tenant: str) -> None:
        window = int(self._now() / limits.TENANT_REQUESTS_WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            self._asked.clear()
        if sum(self._open.values()) >= limits.TENANT_REQUESTS_IN_FLIGHT_MAX:
            raise _unavailable("too many requests to the supervisor are in flight")
        if (
            self._open.get(tenant, 0) >= limits.TENANT_REQUESTS_PER_TENANT_MAX
            or self._asked.get(tenant, 0) >= limits.TENANT_REQUESTS_PER_WINDOW_MAX
        ):
            msg = "too many requests of this kind; send them more slowly"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        self._asked[tenant] = self._asked.get(tenant, 0) + 1

    def _close(self, tenant: str) -> None:
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]


def _unavailable(why: str) -> GatewayError:
    return GatewayError(ErrorCode.UNAVAILABLE, why, retryAfterMs=RETRY_MS)

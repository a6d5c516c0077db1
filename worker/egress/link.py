"""The worker's link to egress."""

from typing import Final

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.models import ModelShown
from worker.shared_link import Bounds, SharedLink

_decode_models: Final = msgspec.json.Decoder(list[ModelShown]).decode
_BOUNDS: Final = Bounds(
    per_second=limits.EGRESS_CALLS_PER_SECOND,
    burst=limits.EGRESS_CALLS_BURST,
    wait_seconds=limits.EGRESS_WAIT_SECONDS,
    none=GatewayError(
        ErrorCode.UNAVAILABLE, "models cannot be asked just now; try again", retryAfterMs=1000
    ),
    too_many=GatewayError(
        ErrorCode.RATE_LIMITED, "too many calls to do with models; try again", retryAfterMs=1000
    ),
)


class EgressLink(SharedLink):
    """The link to the present egress; see `SharedLink`."""

    def __init__(self) -> None:
        super().__init__("egress", _BOUNDS)

    async def models(self) -> list[ModelShown]:
        """Give the models that the operator allows.

        Raises:
            GatewayError: as `call`.
        """
        return _decode_models(await self.call("models", {}))

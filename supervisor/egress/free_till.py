"""A till without a ledger: it counts, and refuses nothing."""

from typing import Final

from protocol.models import Spent
from supervisor.egress.till import Charge, Estimate, Purpose, Reservation

BYTES_PER_TOKEN: Final = 4


class FreeTill:
    """See the module; implements `Till`."""

    def __init__(self) -> None:
        self._last = 0

    async def reserve(self, tenant: str, purpose: Purpose, estimate: Estimate) -> Reservation:
        """See `Till`."""
        self._last += 1
        return Reservation(self._last, tenant, purpose, estimate)

    async def settle(
        self,
        reservation: Reservation,
        spent: Spent | None,
        *,
        answered: int = 0,
        tool_calls: int = 0,
        request_id: str = "",
    ) -> Charge:
        """See `Till`."""
        del tool_calls, request_id
        if spent is not None:
            return Charge(0, spent, estimated=False)
        output = -(-answered // BYTES_PER_TOKEN)
        guess = Spent(input=reservation.estimate.input_tokens, output=output)
        return Charge(0, guess, estimated=True)

    async def release(self, reservation: Reservation) -> None:
        """See `Till`."""

"""The till: what is reserved before a call, and what it has cost after it."""

from typing import Literal, NamedTuple, Protocol

from protocol.models import Spent


class Estimate(NamedTuple):
    """The most that a call can cost by what is known before it: never too little, bounded by it.

    Where a quota leaves less than `output_tokens`, so much less is reserved, and has to be asked
    for; but not less than `output_tokens_min`.
    """

    input_tokens: int
    output_tokens: int
    output_tokens_min: int | None = None

    @property
    def least(self) -> int:
        """The fewest tokens of an answer that are worth asking for; None was exactly so many."""
        least = self.output_tokens_min
        return self.output_tokens if least is None else min(least, self.output_tokens)


class Purpose(NamedTuple):
    """What a call is for; goes into its row."""

    model_id: str
    provider: str
    run_id: str | None = None
    session_key: str | None = None
    own_key: bool = False
    """The tenant's own key pays: its tokens count, and cost the operator nothing."""
    kind: Literal["model", "embedding"] = "model"


class Reservation(NamedTuple):
    """A call that may be made. It is on the disk; a crash before its end is found by its lease."""

    id: int
    tenant: str
    purpose: Purpose
    estimate: Estimate


class Charge(NamedTuple):
    """What a call has cost, as its row in the ledger says."""

    cost_micro_usd: int
    spent: Spent
    estimated: bool


class Till(Protocol):
    """Where every call is paid.

    Decided in one place and without a wait: calls beside each other cannot pass a limit together.
    """

    async def reserve(self, tenant: str, purpose: Purpose, estimate: Estimate) -> Reservation:
        """Set aside what a call may cost.

        Raises:
            GatewayError: QUOTA_EXCEEDED with `metric`, `limit`, `used`, `nextWindowAt`,
                `retryAfterMs`; RATE_LIMITED, too many calls at a time; INVALID_REQUEST, no price.
        """

    async def settle(
        self,
        reservation: Reservation,
        spent: Spent | None,
        *,
        answered: int = 0,
        tool_calls: int = 0,
        request_id: str = "",
    ) -> Charge:
        """Write what it has cost; it is on the disk when this returns.

        Args:
            reservation: Of which call; ends with it.
            spent: What the provider says; None: by estimate, which the row says.
            answered: Bytes of the answer, for an estimate.
            tool_calls: How many the answer asks for.
            request_id: The provider's.
        """

    async def release(self, reservation: Reservation) -> None:
        """Give it back: the call was not made, or refused."""

"""The rate card: what a call costs, in whole micro-USD.

Prices are micro-USD a million tokens. A call's price is the sum over its five classes, exact, and
rounded once, half to even. A class without a price of its own costs what it would be without it:
`cache_read` and `cache_write` as `input`, `reasoning` as `output`.

Of the names on the card the model's own counts before those with `*`, of these the longest. Under
every card lies `builtin/*` at zero, which is longer than `*`: what is answered here costs nothing
unless the card says so in as many letters.
"""

import hashlib
from typing import Final, NamedTuple

import msgspec

from protocol.egress import Billing, Price
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent

FREE: Final = Price(input=0, output=0)
_TOKENS: Final = 1_000_000
"""To which a price refers."""
_GIB: Final = 2**30
_MODELS_KEPT_MAX: Final = 1024
_encoder: Final = msgspec.json.Encoder(order="sorted")


class _Rates(NamedTuple):
    """Micro-USD a million tokens, every class with its price."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int


def divide(amount: int, by: int) -> int:
    """Divide whole numbers that are not negative, rounding half to even."""
    quotient, rest = divmod(amount, by)
    return quotient + (2 * rest > by or (2 * rest == by and quotient % 2))


class RateCard:
    """A card that holds.

    Attributes:
        text: The card itself, canonical: JSON with sorted keys, as the ledger keeps it.
        version: The SHA-256 of `text`, hex.
    """

    def __init__(self, billing: Billing) -> None:
        self._billing: Final = billing
        self.text: Final = _encoder.encode(billing).decode()
        self.version: Final = hashlib.sha256(self.text.encode()).hexdigest()
        patterns = {"builtin/": FREE} | {
            name[:-1]: price for name, price in billing.rate_card.items() if name.endswith("*")
        }
        self._patterns: Final = sorted(patterns.items(), key=lambda item: -len(item[0]))
        self._found: Final[dict[str, _Rates | None]] = {}

    @classmethod
    def parse(cls, text: str) -> "RateCard":
        """Take one as the ledger keeps it.

        Raises:
            msgspec.DecodeError: it is none.
        """
        return cls(msgspec.json.decode(text, type=Billing))

    def check(self, model: str) -> None:
        """Refuse a model that may not be used, since nobody has said what it costs.

        Raises:
            GatewayError: INVALID_REQUEST.
        """
        if self._rates(model) is None and not self._billing.allow_unpriced:
            message = (
                f"model {model} has no price; the operator gives billing.rate_card an entry for "
                "it, or says billing.unpriced: allow"
            )
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="model")

    def cost(self, model: str, spent: Spent) -> int:
        """Give what a call costs, in micro-USD; a model without a price costs nothing."""
        rates = self._rates(model)
        if rates is None:
            return 0
        return divide(
            spent.input * rates.input
            + spent.cache_read * rates.cache_read
            + spent.cache_write * rates.cache_write
            + spent.output * rates.output
            + spent.reasoning * rates.reasoning,
            _TOKENS,
        )

    def dearest(self, model: str) -> tuple[int, int]:
        """Give the dearest class of what goes in, and of what comes out."""
        rates = self._rates(model)
        if rates is None:
            return 0, 0
        return (
            max(rates.input, rates.cache_read, rates.cache_write),
            max(rates.output, rates.reasoning),
        )

    def most(self, model: str, input_tokens: int, output_tokens: int) -> int:
        """Give the most that a call of so many tokens can cost, in micro-USD, rounded up."""
        dearest_in, dearest_out = self.dearest(model)
        return -(-(input_tokens * dearest_in + output_tokens * dearest_out) // _TOKENS)

    def sandbox_cost(self, wall_ms: int) -> int:
        """Give what a sandbox has cost that ran so long, in micro-USD."""
        return divide(wall_ms * self._billing.sandbox_second_nano_usd, 1_000_000)

    def traffic_cost(self, moved: int) -> int:
        """Give what so many bytes cost, in micro-USD."""
        return divide(moved * self._billing.egress_gib_micro_usd, _GIB)

    def _rates(self, model: str) -> _Rates | None:
        try:
            return self._found[model]
        except KeyError:
            if len(self._found) >= _MODELS_KEPT_MAX:
                self._found.clear()
            rates = self._found[model] = self._find(model)
            return rates

    def _find(self, model: str) -> _Rates | None:
        price = self._billing.rate_card.get(model)
        if price is None:
            price = next((each for name, each in self._patterns if model.startswith(name)), None)
        if price is None:
            return None
        return _Rates(
            input=price.input,
            cache_read=price.input if price.cache_read is None else price.cache_read,
            cache_write=price.input if price.cache_write is None else price.cache_write,
            output=price.output,
            reasoning=price.output if price.reasoning is None else price.reasoning,
        )

"""The section `billing` of `config.yaml`: what models, sandboxes and traffic cost.

Prices are US dollars, as decimals: a YAML or JSON number is taken as it is written (its shortest
form that reads back as the same float), never as the binary fraction that stands for it. They are
exact with six decimals, nine for a second of a sandbox; more are refused.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from protocol.egress import Billing, Price

RATES_MAX: Final = 1024
USD_MAX: Final = 1_000_000
"""A million tokens at a dollar each: what is dearer is a slip of the pen."""
MICRO_DIGITS: Final = 6
NANO_DIGITS: Final = 9
_CLASSES: Final = tuple(field.name for field in msgspec.structs.fields(Price))
_NEEDED: Final = tuple(field.name for field in msgspec.structs.fields(Price) if field.required)
_PATTERN: Final = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\*?")


class BillingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is paid for.

    `rate_card` has US dollars a million tokens by model; a name may end with `*`. A model that it
    does not price is refused unless `unpriced` is `allow`: then it costs nothing. `sandbox_second`
    is a second of a sandbox, `egress_gib` a GiB that fetches and sandboxes have moved.
    """

    currency: Literal["USD"] = "USD"
    unpriced: Literal["refuse", "allow"] = "refuse"
    rate_card: Annotated[dict[str, Any], msgspec.Meta(max_length=RATES_MAX)] = {}
    sandbox_second: Any = 0
    egress_gib: Any = 0

    def __post_init__(self) -> None:
        """Refuse what no type can say.

        Raises:
            ValueError, TypeError: naming the key; msgspec makes a `ValidationError` of it.
        """
        self.billing()

    def billing(self) -> Billing:
        """Give what egress is told.

        Raises:
            ValueError, TypeError: naming the key; not after it was made.
        """
        return Billing(
            rate_card={
                model: _price(f"rate_card.{model[:130]}", model, classes)
                for model, classes in self.rate_card.items()
            },
            allow_unpriced=self.unpriced == "allow",
            sandbox_second_nano_usd=_units("sandbox_second", self.sandbox_second, NANO_DIGITS),
            egress_gib_micro_usd=_units("egress_gib", self.egress_gib, MICRO_DIGITS),
        )


def _price(key: str, model: str, classes: object) -> Price:
    if not _PATTERN.fullmatch(model):
        raise ValueError(f"{key}: it is no model id, nor the beginning of one and a `*`")
    if not isinstance(classes, Mapping):
        raise TypeError(f"{key}: give {{input: …, output: …}}, US dollars a million tokens")
    for name in classes:
        if name not in _CLASSES:
            raise ValueError(f"{key}.{str(name)[:64]}: there are {', '.join(_CLASSES)}")
    for name in _NEEDED:
        if name not in classes:
            raise ValueError(f"{key}.{name}: missing; write 0 for what costs nothing")
    return Price(
        **{name: _units(f"{key}.{name}", amount, MICRO_DIGITS) for name, amount in classes.items()}
    )


def _units(key: str, amount: object, digits: int) -> int:
    """Give US dollars in units of 10 ** -`digits` of one."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise TypeError(f"{key}: write a number such as 2.50, without quotes")
    dollars = Decimal(repr(amount))
    if not dollars.is_finite():
        raise ValueError(f"{key}: it is no finite number")
    if dollars < 0:
        raise ValueError(f"{key}: it is below zero")
    if dollars > USD_MAX:
        raise ValueError(f"{key}: it is over {USD_MAX} US dollars")
    units = dollars.scaleb(digits)
    if units != units.to_integral_value():
        raise ValueError(f"{key}: it has more than {digits} decimals")
    return int(units)

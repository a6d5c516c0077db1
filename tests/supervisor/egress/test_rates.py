"""Money: prices as they are written, what a call costs, against brute force with fractions."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import documents
from protocol.egress import Billing, Price
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from supervisor.billing_config import BillingSection
from supervisor.egress.rates import RateCard


def read(text: str) -> Billing:
    tree = documents.parse(text.encode())
    return msgspec.convert(tree, BillingSection).billing()


def test_a_price_is_the_decimal_that_is_written() -> None:
    billing = read(
        """
rate_card:
  gpt-4o: {input: 2.50, output: 10.00, cache_read: 1.25}
  odd: {input: 0.1, output: 0.000001, reasoning: 1234.567891}
  local-*: {input: 0, output: 0}
sandbox_second: 0.000000001
egress_gib: 0.09
"""
    )
    assert billing.rate_card["gpt-4o"] == Price(
        input=2_500_000, output=10_000_000, cache_read=1_250_000
    )
    assert billing.rate_card["odd"] == Price(input=100_000, output=1, reasoning=1_234_567_891)
    assert billing.sandbox_second_nano_usd == 1
    assert billing.egress_gib_micro_usd == 90_000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('rate_card: {m: {input: "1", output: 1}}', r"rate_card\.m\.input: .*without quotes"),
        ("rate_card: {m: {input: 1e3, output: 1}}", r"rate_card\.m\.input: .*without quotes"),
        ("rate_card: {m: {input: true, output: 1}}", r"rate_card\.m\.input: .*a number"),
        ("rate_card: {m: {input: -0.01, output: 1}}", r"rate_card\.m\.input: .*below zero"),
        ("rate_card: {m: {input: 1, output: .nan}}", r"rate_card\.m\.output: .*no finite"),
        ("rate_card: {m: {input: 1, output: .inf}}", r"rate_card\.m\.output: .*no finite"),
        ("rate_card: {m: {input: 1, output: 1000001}}", r"rate_card\.m\.output: .*over 1000000"),
        ("rate_card: {m: {input: 1, output: 1.0e+99}}", r"rate_card\.m\.output: .*over 1000000"),
        ("rate_card: {m: {input: 0.0000001, output: 1}}", r"rate_card\.m\.input: .*six|6 decimals"),
        ("rate_card: {m: {input: 1}}", r"rate_card\.m\.output: missing"),
        ("rate_card: {m: {output: 1}}", r"rate_card\.m\.input: missing"),
        ("rate_card: {m: {input: 1, output: 1, cached: 1}}", r"rate_card\.m\.cached: there are"),
        ("rate_card: {m: 3}", r"rate_card\.m: give"),
        ("rate_card: {m: null}", r"rate_card\.m: give"),
        ("rate_card: {'a*b': {input: 1, output: 1}}", r"rate_card\.a\*b: it is no model id"),
        ("rate_card: {'': {input: 1, output: 1}}", r"rate_card\.: it is no model id"),
        ("rate_card: [1]", "rate_card"),
        ("currency: EUR", "currency"),
        ("unpriced: maybe", "unpriced"),
        ("rates: {}", "rates"),
        ("sandbox_second: '1'", "sandbox_second: .*without quotes"),
        ("sandbox_second: 0.0000000001", "sandbox_second: .*9 decimals"),
        ("egress_gib: -1", "egress_gib: .*below zero"),
    ],
)
def test_a_section_that_cannot_be_meant_names_its_key(text: str, named: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=named):
        read(text)


prices = st.integers(0, 10**9)
optional = st.none() | prices
rates = st.builds(
    Price,
    input=prices,
    output=prices,
    cache_read=optional,
    cache_write=optional,
    reasoning=optional,
)
tokens = st.integers(0, 10**7) | st.sampled_from([0, 1, 500_000, 10**6])
spents = st.builds(
    Spent, input=tokens, cache_read=tokens, cache_write=tokens, output=tokens, reasoning=tokens
)


def brute(price: Price, spent: Spent) -> int:
    """Micro-USD by fractions; Python rounds them half to even."""
    cached = [price.cache_read, price.cache_write]
    reading, writing = (price.input if each is None else each for each in cached)
    thinking = price.output if price.reasoning is None else price.reasoning
    exact = (
        Fraction(spent.input) * price.input
        + Fraction(spent.cache_read) * reading
        + Fraction(spent.cache_write) * writing
        + Fraction(spent.output) * price.output
        + Fraction(spent.reasoning) * thinking
    )
    return round(exact / 10**6)


@given(rates, spents)
def test_a_cost_is_exact_and_rounded_once_half_to_even(price: Price, spent: Spent) -> None:
    cost = RateCard(Billing(rate_card={"m": price})).cost("m", spent)
    assert cost == brute(price, spent)
    assert type(cost) is int


@pytest.mark.parametrize(("halves", "cost"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_halves_go_to_the_even_one(halves: int, cost: int) -> None:
    halfpenny = RateCard(Billing(rate_card={"m": Price(input=500_000, output=0)}))
    assert halfpenny.cost("m", Spent(input=halves)) == cost


@given(rates, spents)
def test_what_is_set_aside_is_never_less_than_what_it_costs(price: Price, spent: Spent) -> None:
    card = RateCard(Billing(rate_card={"m": price}))
    inside = spent.input + spent.cache_read + spent.cache_write
    assert card.most("m", inside, spent.output + spent.reasoning) >= card.cost("m", spent)


@given(st.integers(0, 10**12), st.integers(0, 10**9))
def test_seconds_and_bytes_are_exact(amount: int, price: int) -> None:
    card = RateCard(Billing(sandbox_second_nano_usd=price, egress_gib_micro_usd=price))
    assert card.sandbox_cost(amount) == round(Fraction(amount * price, 10**6))
    assert card.traffic_cost(amount) == round(Fraction(amount * price, 2**30))


PATTERNS = {
    "gpt-4o": Price(input=1, output=1),
    "gpt-4o-*": Price(input=2, output=2),
    "gpt-*": Price(input=3, output=3),
    "*": Price(input=4, output=4),
}


@pytest.mark.parametrize(
    ("model", "dearest"),
    [
        ("gpt-4o", 1),
        ("gpt-4o-mini", 2),
        ("gpt-4o-", 2),
        ("gpt-4", 3),
        ("other", 4),
        ("builtin/echo", 0),
    ],
)
def test_the_longest_name_on_the_card_counts(model: str, dearest: int) -> None:
    assert RateCard(Billing(rate_card=PATTERNS)).dearest(model) == (dearest, dearest)


@pytest.mark.parametrize("name", ["builtin/echo", "builtin/*", "builtin/e*"])
def test_what_is_answered_here_has_a_price_if_the_card_says_so(name: str) -> None:
    card = RateCard(Billing(rate_card={name: Price(input=7, output=8)}))
    assert card.dearest("builtin/echo") == (7, 8)


def test_a_model_without_a_price_is_refused_unless_the_operator_allows_it() -> None:
    with pytest.raises(GatewayError, match=r"m has no price.*rate_card.*unpriced: allow") as caught:
        RateCard(Billing()).check("m")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details["field"] == "model"
    allowed = RateCard(Billing(allow_unpriced=True))
    allowed.check("m")
    assert allowed.cost("m", Spent(input=10**9)) == 0


def test_a_card_is_named_by_what_it_says() -> None:
    one = RateCard(Billing(rate_card=PATTERNS))
    turned = RateCard(Billing(rate_card=dict(reversed(PATTERNS.items()))))
    other = RateCard(Billing(rate_card=PATTERNS | {"*": Price(input=4, output=5)}))
    assert one.version == turned.version != other.version
    assert RateCard.parse(one.text).version == one.version

"""`openclaw tenants quota` and the options that say a quota, without a gateway."""

import json
from pathlib import Path

import click
import pytest

from cli.quotas import MICRO, Amount
from tests.cli.command import Command

ALL = (
    *("--quota.tokens-per-day", "5_000_000", "--quota.tokens-per-month", "60_000_000"),
    *("--quota.cost-per-day-usd", "50", "--quota.cost-per-month-usd", "0.5"),
    *("--quota.requests-per-minute", "600", "--quota.requests-per-hour", "0"),
    *("--quota.concurrent-runs", "3", "--quota.soft-percent", "90"),
)
WIRE = {
    "tokensPerDay": 5_000_000,
    "tokensPerMonth": 60_000_000,
    "costPerDayMicroUsd": 50_000_000,
    "costPerMonthMicroUsd": 500_000,
    "requestsPerMinute": 600,
    "requestsPerHour": 0,
    "concurrentRuns": 3,
    "softPercent": 90,
}
LINE = (
    "5,000,000 tokens/day, 60,000,000 tokens/month, $50/day, $0.5/month, 600 requests/minute, "
    "0 requests/hour, 3 runs at a time, warning at 90 %"
)


def test_a_quota_is_given_changed_and_taken_away(openclaw: Command) -> None:
    created = openclaw("tenants", "create", "acme", *ALL)
    assert created.out.splitlines()[-1] == f"✓ quota: {LINE}"
    assert openclaw("tenants", "list").out.endswith(f"  quota: {LINE}\n")
    assert openclaw("tenants", "get", "acme", "--json").json()["quota"] == WIRE
    said = openclaw(
        *("tenants", "quota", "acme", "--quota.tokens-per-day", "none"),
        *("--quota.requests-per-hour", "7", "--json"),
    ).json()
    changed = {**WIRE, "requestsPerHour": 7}
    del changed["tokensPerDay"]
    assert said == {"tenantId": "acme", "quotas": changed, "windows": [], "isBlocked": False}
    none = [word for option in ALL[::2] for word in (option, "none")]
    assert openclaw("tenants", "quota", "acme", *none).out == "quota       none\n"
    assert openclaw("tenants", "quota", "acme").out == "quota       none\n"
    lines = Path(openclaw.state_dir, "audit.jsonl").read_text().splitlines()
    details = [json.loads(line)["detail"] for line in lines if '"tenant.updated"' in line]
    assert [(detail["before"]["quota"], detail["after"]["quota"]) for detail in details] == [
        (WIRE, changed),
        (changed, {}),
    ]


def test_what_is_no_quota_is_refused_and_changes_nothing(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme", *ALL)
    started = {
        given: openclaw.start("tenants", "quota", "acme", *given)
        for given in (
            ("--quota.soft-percent", "101"),
            ("--quota.requests-per-minute", "-1"),
            ("--quota.cost-per-day-usd", "nan"),
            ("--quota.nothing", "1"),
        )
    }
    for given, process in started.items():
        said = openclaw.end(process)
        assert said.code == 2, given
        assert given[0] in said.err
    assert openclaw("tenants", "quota", "nobody").refused() == "no such tenant: nobody"
    assert openclaw("tenants", "get", "acme", "--json").json()["quota"] == WIRE


@pytest.mark.parametrize("text", ["0", "101", "1.5", "none", "", "unlimited"])
def test_a_percentage_is_one(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Amount(1, 1, 100).convert(text, None, None)
    assert Amount(1, 1, 100).convert("100", None, None) == 100


def test_none_is_said_only_where_there_is_something_to_take_away() -> None:
    with pytest.raises(click.BadParameter):
        Amount(MICRO).convert("none", None, None)
    assert Amount(MICRO).clearing().convert("none", None, None) == "none"
    assert Amount(MICRO).clearing().convert("0.5", None, None) == 500_000

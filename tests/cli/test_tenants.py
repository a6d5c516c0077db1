import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from cli import quotas
from cli.quotas import AMOUNT_MAX, MICRO, Amount
from protocol.names import digest
from protocol.spawn import TokenGrant
from supervisor.registry import Registry
from tests.cli.command import Command

TOKEN = r"tk_acme_[0-9a-f]{32}"
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"


def tokens(state_dir: Path) -> dict[str, dict[str, TokenGrant]]:
    registry = Registry(state_dir / "registry.sqlite")
    try:
        return registry.token_digests()
    finally:
        registry.close()


def audited(state_dir: Path) -> list[tuple[str, str]]:
    lines = (state_dir / "audit.jsonl").read_text().splitlines()
    return [(json.loads(line)["action"], json.loads(line)["tenant"]) for line in lines]


def files(state_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(state_dir)): path.read_bytes() if path.is_file() else b"directory"
        for path in state_dir.rglob("*")
        if path.name != "gateway.lock"
    }


# --- what it prints


def test_a_tenants_life_as_people_read_it(openclaw: Command) -> None:
    assert openclaw("tenants", "list") == (0, "no tenants yet: openclaw tenants create <id>\n", "")
    created = openclaw(
        *("tenants", "create", "acme", "--display-name", "Acme 🦀"),
        *("--quota.tokens-per-day", "5_000_000", "--quota.cost-per-day-usd", "50"),
    )
    assert re.fullmatch(
        r"✓ tenant created · /tenants/acme\n"
        r"✓ token \(copy now — shown once\):\n"
        rf"{TOKEN}\n"
        r"✓ quota: 5,000,000 tokens/day, \$50/day\n",
        created.out,
    )
    assert (created.code, created.err) == (0, "")
    token = created.out.splitlines()[2]
    assert tokens(openclaw.state_dir)["acme"].keys() == {digest(token).hex()}

    listed = openclaw("tenants", "list")
    quota = r"5,000,000 tokens/day, \$50/day"
    assert re.fullmatch(rf"acme  enabled    {TIME}  Acme 🦀  quota: {quota}\n", listed.out)
    shown = openclaw("tenants", "get", "acme")
    assert re.fullmatch(
        "tenant      acme\n"
        "name        Acme 🦀\n"
        "state       enabled\n"
        rf"created     {TIME}\n"
        "directory   /tenants/acme\n"
        f"quota       {quota}\n",
        shown.out,
    )

    rotated = openclaw("tenants", "token", "rotate", "acme")
    assert re.fullmatch(
        "✓ old token hash removed from keystore\n"
        rf"✓ new token \(copy now\): {TOKEN}\n"
        "✓ any requests with the old token will now 401\n",
        rotated.out,
    )
    new = rotated.out.splitlines()[1].split()[-1]
    assert tokens(openclaw.state_dir)["acme"].keys() == {digest(new).hex()}
    assert new != token

    deleted = openclaw("tenants", "delete", "acme", "--confirm")
    assert (deleted.code, deleted.err) == (0, "")
    assert deleted.out == (
        "✓ session store wiped\n"
        "✓ memory wiped\n"
        "✓ sandbox roots wiped\n"
        "✓ token hash removed from keystore\n"
        "✓ tenant entry removed\n"
        "(audit log kept for compliance retention)\n"
    )
    assert list((openclaw.state_dir / "tenants").iterdir()) == []
    assert tokens(openclaw.state_dir) == {}
    assert audited(openclaw.state_dir) == [
        ("tenant.created", "acme"),
        ("token.rotated", "acme"),
        ("tenant.deleting", "acme"),
        ("tenant.deleted", "acme"),
    ]


def test_a_tenants_life_as_programs_read_it(openclaw: Command) -> None:
    assert openclaw("tenants", "list", "--json").json() == []
    created = openclaw(
        *("tenants", "create", "acme", "--json"),
        *("--quota.tokens-per-day", "0", "--quota.cost-per-day-usd", "0.000001"),
    ).json()
    assert re.fullmatch(TOKEN, created.pop("token"))
    assert re.fullmatch(TIME, created["createdAt"])
    assert created == {
        "tenantId": "acme",
        "createdAt": created["createdAt"],
        "disabled": False,
        "state": "enabled",
        "quota": {"tokensPerDay": 0, "costPerDayMicroUsd": 1},
        "limits": {},
        "effectiveLimits": created["effectiveLimits"],
        "stateDir": "/tenants/acme",
    }
    assert openclaw("tenants", "list", "--json").json() == [created]
    assert openclaw("tenants", "get", "acme", "--json").json() == created
    rotated = openclaw("tenants", "token", "rotate", "acme", "--json").json()
    assert re.fullmatch(TOKEN, rotated.pop("token"))
    assert re.fullmatch(TIME, rotated.pop("createdAt"))
    assert re.fullmatch("tok_[0-9a-f]{16}", rotated.pop("tokenId"))
    assert rotated == {
        "tenantId": "acme",
        "name": "default",
        "scopes": ["read", "write", "admin"],
    }
    deleted = openclaw("tenants", "delete", "acme", "--confirm", "--json").json()
    assert deleted == {"deleted": True, "tenantId": "acme"}


def test_a_terminal_that_shows_no_tick_still_shows_the_token(openclaw: Command) -> None:
    said = openclaw("tenants", "create", "acme", PYTHONIOENCODING="latin-1")
    assert said.code == 0
    assert re.search(rf"^{TOKEN}$", said.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("quota", "text"),
    [
        ({}, "none"),
        ({"tokensPerDay": 0}, "0 tokens/day"),
        ({"tokensPerDay": 1234567}, "1,234,567 tokens/day"),
        ({"costPerDayMicroUsd": 0}, "$0/day"),
        ({"costPerDayMicroUsd": 1}, "$0.000001/day"),
        ({"costPerDayMicroUsd": 1_500_000}, "$1.5/day"),
        ({"costPerDayMicroUsd": 2**53}, "$9007199254.740992/day"),
        ({"tokensPerDay": 1, "costPerDayMicroUsd": 100_000_000}, "1 tokens/day, $100/day"),
        (
            {"requestsPerMinute": 60, "concurrentRuns": 0, "costPerMonthMicroUsd": 5_000_000},
            "$5/month, 60 requests/minute, 0 runs at a time",
        ),
        (
            {"tokensPerMonth": 5, "requestsPerHour": 1000, "softPercent": 50},
            "5 tokens/month, 1,000 requests/hour, warning at 50 %",
        ),
    ],
)
def test_a_quota_is_written_out(quota: dict[str, Any], text: str) -> None:
    assert quotas.line(quota) == text


# --- amounts


@pytest.mark.parametrize(
    ("text", "scale", "amount"),
    [
        ("0", 1, 0),
        ("007", 1, 7),
        ("5_000_000", 1, 5_000_000),
        ("1.000000", 1, 1),
        (str(AMOUNT_MAX), 1, AMOUNT_MAX),
        ("0.000001", MICRO, 1),
        ("12.50", MICRO, 12_500_000),
        ("9007199254.740992", MICRO, AMOUNT_MAX),
    ],
)
def test_an_amount_is_exact(text: str, scale: int, amount: int) -> None:
    assert Amount(scale).convert(text, None, None) == amount


@pytest.mark.parametrize("scale", [1, MICRO])
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-1", "+1", "1e3", "1e999999999", "nan", "inf", "0x10", "1.", ".5", "1.2.3"),
        *("_1", "1_", "1__0", "1 000", "1,000", "٣", "½", "0.0000001", "9007199254740993"),
        *("9" * 17, "1" + "0" * 5000, "1\n", "1\0", "--", "$5"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, scale: int) -> None:
    with pytest.raises(click.BadParameter):
        Amount(scale).convert(text, None, None)


def test_a_half_token_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="too fine"):
        Amount(1).convert("0.5", None, None)


# --- what is refused


def test_delete_without_confirm_changes_nothing(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme")
    (openclaw.state_dir / "tenants" / "acme" / "memory" / "kept").write_text("x")
    before = files(openclaw.state_dir)
    assert "--confirm" in openclaw("tenants", "delete", "acme").refused()
    assert files(openclaw.state_dir) == before


def test_what_does_not_fit_the_tenants_is_refused(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme")
    before = files(openclaw.state_dir)
    assert openclaw("tenants", "create", "acme").refused() == "tenant acme exists already"
    for command in (["get"], ["token", "rotate"], ["delete", "--confirm"]):
        said = openclaw("tenants", *command, "nobody", "--json")
        assert said.refused() == "no such tenant: nobody"
    assert files(openclaw.state_dir) == before


def test_what_is_no_name_is_refused(openclaw: Command) -> None:
    for tenant in ("../acme", b"\xff\xfe"):
        assert openclaw("tenants", "create", "--", tenant).refused().startswith("tenantId: ")
    said = openclaw("tenants", "create", "acme", "--display-name", b"a\nb\xff")
    assert said.refused().startswith("displayName: ")
    assert tokens(openclaw.state_dir) == {}
    assert list((openclaw.state_dir / "tenants").iterdir()) == []


def test_a_wrong_command_line_does_nothing(openclaw: Command) -> None:
    lines = (
        "tenants create",
        "tenants create acme --quota.tokens-per-day many",
        "tenants destroy acme",
        "tenant list",
        "gateway --port 65536",
    )
    started = {line: openclaw.start(*line.split()) for line in lines}
    for line, process in started.items():
        said = openclaw.end(process)
        assert (line, said.code, said.out) == (line, 2, "")
        assert said.err.startswith("Usage: openclaw")
    assert not openclaw.state_dir.exists()


# --- at once


def test_commands_at_once_take_turns(openclaw: Command) -> None:
    names = ["a", "b", "c", "same", "same"]
    started = [openclaw.start("tenants", "create", name, "--json") for name in names]
    ended = [openclaw.end(process) for process in started]
    assert sorted(said.code for said in ended) == [0, 0, 0, 0, 1]
    assert [said.err for said in ended if said.code] == ["openclaw: tenant same exists already\n"]
    created = [json.loads(said.out) for said in ended if said.code == 0]
    assert sorted(row["tenantId"] for row in created) == ["a", "b", "c", "same"]
    kept = tokens(openclaw.state_dir)
    assert {row["tenantId"]: [digest(row["token"]).hex()] for row in created} == {
        tenant: list(digests) for tenant, digests in kept.items()
    }
    assert len(audited(openclaw.state_dir)) == 4


def test_a_restart_of_all_says_that_there_is_nothing_to_restart(openclaw: Command) -> None:
    assert openclaw("tenants", "create", "acme").code == 0
    done = openclaw("tenants", "restart", "--all")
    assert (done.code, done.out, done.err) == (0, "", "openclaw: no tenant has a worker\n")

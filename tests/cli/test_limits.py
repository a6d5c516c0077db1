"""`openclaw tenants limits`, without a gateway: sizes, where a value comes from, the audit."""

import json
import re
from pathlib import Path

import click
import pytest

from cli.limits import Count, Processors, Size, size_text, used
from protocol import limits
from tests.cli.command import Command

SIZES = Size(limits.TENANT_DISK_BYTES_MIN, limits.TENANT_DISK_BYTES_MAX, "it needs")
SHOWN = """\
memory          512M  from tenant
cpu              0.5  from tenant
pids             128  from tenant
disk               2G  from tenant
inodes     unlimited  from tenant
"""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("512M", 512 * 2**20),
        ("512Mi", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("512 MB", 512 * 2**20),
        ("2G", 2 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("20000K", 20000 * 1024),
        ("16777216", 2**24),
        ("16777216B", 2**24),
        ("0.5T", 2**39),
        ("8P", 2**53),
    ],
)
def test_a_size(text: str, number: int) -> None:
    assert SIZES.convert(text, None, None) == number


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "is no size such as 512M") for text in ("", "x", "512Q", "512m", "-1", "1e9")),
        *((text, "is no size") for text in ("0x10", "\uff11G", "1,5G", "M", "inf", "1" * 17)),
        ("15M", "is below 16M, the least that it needs"),
        ("0", "is below 16M"),
        ("9P", "is above 8P; say unlimited for no bound"),
    ],
)
def test_what_is_no_size_names_the_fix(text: str, why: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        SIZES.convert(text, None, None)
    assert why in refused.value.message


def test_the_other_kinds() -> None:
    assert Count(16, 10**6).convert("1_000", None, None) == 1000
    assert Processors(0.01, 1024).convert("0.5", None, None) == 0.5
    for kind in (Count(16, 100), Processors(0.01, 100)):
        for text in ("0", "1.5.1", "-3", "nan", "1e3", "1000000", ""):
            with pytest.raises(click.BadParameter):
                kind.convert(text, None, None)
        for word in ("unlimited", "default"):
            assert kind.convert(word, None, None) == word


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1K"), (3 * 2**29, "1.5G"), (2**53, "8P"), (10**9, "953.7M")],
)
def test_a_size_is_shown_short(number: int, text: str) -> None:
    assert size_text(number) == text


def test_use_is_shown_with_its_limit() -> None:
    row = {"diskBytes": 2**20, "pids": 3, "limits": {"diskBytes": 2**30, "pids": "unlimited"}}
    assert [used(row, field) for field in ("diskBytes", "pids", "diskInodes")] == [
        "1M/1G",
        "3",
        "-",
    ]


def test_limits_as_people_read_them(openclaw: Command) -> None:
    created = openclaw("tenants", "create", "acme", "--memory", "1.5GiB", "--disk", "default")
    assert created.out.splitlines()[-1] == "✓ limits: memory 1.5G"
    assert openclaw("tenants", "get", "acme").out.splitlines()[-1] == "limits      memory 1.5G"
    said = openclaw(
        *("tenants", "limits", "acme", "--memory", "512M", "--cpu", "0.5"),
        *("--pids", "128", "--disk", "2G", "--inodes", "unlimited"),
    )
    table = [line.split() for line in said.out.splitlines()]
    assert table == [line.split() for line in SHOWN.splitlines()]
    assert openclaw("tenants", "limits", "acme").out == said.out
    said = openclaw("tenants", "limits", "acme", "--memory", "default", "--cpu", "default")
    assert said.out.splitlines()[:2] == [
        "memory            2G  from caps.memory_bytes",
        "cpu        unlimited  from caps.cpus",
    ]
    assert said.out.splitlines()[2].endswith("from tenant")


def test_the_gateways_default_is_what_its_file_says(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme", "--pids", "100")
    (openclaw.state_dir / "config.yaml").write_text("caps: {memory_bytes: null, pids: 200}\n")
    found = openclaw("tenants", "limits", "acme", "--json").json()
    assert found == {
        "tenantId": "acme",
        "limits": {"pids": 100},
        "effectiveLimits": {
            "memoryBytes": "unlimited",
            "cpus": "unlimited",
            "pids": 100,
            "diskBytes": 10 * 2**30,
            "diskInodes": 1_000_000,
        },
    }


def test_a_change_is_audited_with_before_and_after(openclaw: Command) -> None:
    openclaw("tenants", "create", "acme")
    openclaw("tenants", "limits", "acme", "--cpu", "2")
    openclaw("tenants", "limits", "acme", "--cpu", "2")  # nothing changes, nothing is written
    openclaw("tenants", "limits", "acme", "--cpu", "unlimited", "--disk", "1G")
    lines = [
        json.loads(line)
        for line in Path(openclaw.state_dir, "audit.jsonl").read_text().splitlines()
        if '"tenant.updated"' in line
    ]
    assert [(line["detail"]["before"], line["detail"]["after"]) for line in lines] == [
        ({"limits": {}} | before, {"limits": {}} | after)
        for before, after in (
            (_facts(), _facts(cpus=2.0)),
            (_facts(cpus=2.0), _facts(cpus="unlimited", diskBytes=2**30)),
        )
    ]


def _facts(**own: object) -> dict[str, object]:
    return {"displayName": None, "quota": {}, "limits": own}


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--memory", "1M", r"below 64M, the least that a tenant's worker and a small sandbox need"),
        ("--cpu", "0", r"below 0\.01, the least"),
        ("--pids", "3", r"below 16, the least"),
        ("--disk", "1G5", r"is no size such as 512M"),
        ("--inodes", "1.5", r"is no whole number"),
    ],
)
@pytest.mark.parametrize("command", ["create", "limits"])
def test_what_no_worker_can_live_with_is_refused(
    openclaw: Command, command: str, option: str, value: str, why: str
) -> None:
    said = openclaw("tenants", command, "acme", option, value)
    assert said.code == 2
    assert re.search(f"'{option}'.*{why}", " ".join(said.err.split()))
    assert not (openclaw.state_dir / "registry.sqlite").exists()


def test_who_is_not_there_has_no_limits(openclaw: Command) -> None:
    assert openclaw("tenants", "limits", "nobody").refused() == "no such tenant: nobody"
    assert openclaw("tenants", "limits", "nobody", "--pids", "99").refused()

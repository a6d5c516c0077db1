"""`config.*`: the tenant's own configuration."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import config
from tests.worker.harness import Front, GatedProvider, catalogue_of, running_worker
from worker.agents.catalogue import CATALOGUE
from worker.config import overlay, secrets

KEY = "agent:main:main"
SKILL = {"skills": {"entries": {"maps": {"apiKey": "s3cret", "env": {"MAPS_ID": "hidden"}}}}}
RED = config.REDACTED


async def written(front: Front, tree: object, **more: Any) -> dict[str, Any]:
    result: dict[str, Any] = await front.call("config.set", {"raw": json.dumps(tree), **more})
    return result


async def test_without_a_file_there_is_an_empty_configuration(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        got = await rig.front.call("config.get")
    assert (got["exists"], got["valid"], got["raw"], got["config"]) == (False, True, "", {})
    assert not (tenant_dir / "config.yaml").exists()


async def test_what_is_set_is_got_and_is_private(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        raw = "agent:\n  systemPrompt: Be kind.\n  tools: {allow: [clock]}\n"
        done = await rig.front.call("config.set", {"raw": raw})
        got = await rig.front.call("config.get")
    assert (
        got["config"]
        == done["config"]
        == {"agent": {"systemPrompt": "Be kind.", "tools": {"allow": ["clock"]}}}
    )
    assert (got["hash"], got["exists"]) == (done["hash"], True)
    path = tenant_dir / "config.yaml"
    assert path.read_text() == got["raw"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_patch_merges_and_null_takes_away(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await written(rig.front, {"agent": {"systemPrompt": "x", "model": "builtin/echo"}})
        patch = {"raw": '{"agent": {"systemPrompt": null, "tools": {"allow": []}}}'}
        done = await rig.front.call("config.patch", patch)
        assert done["config"] == {"agent": {"model": "builtin/echo", "tools": {"allow": []}}}
        done = await rig.front.call("config.patch", {"raw": "agent: null"})
        assert done["config"] == {}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ("gateway: {port: 1}", "raw.gateway"),
        ("agent: {workspace: /etc}", "raw.agent.workspace"),
        ("isolation: {mode: none}", "raw.isolation"),
        ("skills: {entries: {a: {command: sh}}}", "raw.skills.entries[...].command"),
        ("agent: {systemPrompt: 5}", "raw.agent.systemPrompt"),
        ("agent: {model: no model}", "raw.agent.model"),
        ("agent: {tools: {allow: [rm]}}", "raw.agent.tools.allow"),
        ("skills: {entries: {a: {env: {ld_preload: x}}}}", "raw.skills.entries[...].env"),
        ("- 1", "raw"),
        ("a: [", "raw"),
        ("a: &x 1\nb: *x", "raw"),
        ("agent: {}\nagent: {}", "raw"),
        ("1" * 5000, "raw"),
        ("[" * 3000, "raw"),
    ],
)
async def test_another_key_or_value_is_refused_by_name(
    tenant_dir: Path, raw: str, field: str
) -> None:
    async with running_worker() as rig:
        for method in ("config.set", "config.patch"):
            error = await rig.front.refused(method, {"raw": raw})
            assert error.code is ErrorCode.INVALID_REQUEST
            assert error.details["field"] == field, error.message
    assert not (tenant_dir / "config.yaml").exists()


async def test_a_write_over_another_file_than_was_read_conflicts(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        first = (await rig.front.call("config.get"))["hash"]
        done = await written(rig.front, {"agent": {"systemPrompt": "a"}}, baseHash=first)
        for method in ("config.set", "config.patch"):
            params = {"raw": '{"agent": {"systemPrompt": "b"}}', "baseHash": first}
            error = await rig.front.refused(method, params)
            assert (error.code, error.details["hash"]) == (ErrorCode.CONFLICT, done["hash"])
        # A repeat of what was done finds it done.
        again = await written(rig.front, {"agent": {"systemPrompt": "a"}}, baseHash=first)
        assert again == done


async def test_of_two_writers_one_wins(tenant_dir: Path) -> None:
    async with (
        running_worker(generation=1) as old,
        running_worker(generation=2, living=(1,)) as new,
    ):
        base = (await old.front.call("config.get"))["hash"]
        assert (await new.front.call("config.get"))["hash"] == base
        writes = [
            rig.front.call(
                "config.set", {"raw": f"agent: {{systemPrompt: '{n}'}}", "baseHash": base}
            )
            for n, rig in enumerate((old, new))
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(result, Exception) for result in results) == 1
        (won,) = (result for result in results if not isinstance(result, BaseException))
        for rig in (old, new):
            assert (await rig.front.call("config.get"))["config"] == won["config"]


async def test_secrets_are_redacted_and_come_back(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await written(rig.front, SKILL)
        got = await rig.front.call("config.get")
        assert got["config"] == {
            "skills": {"entries": {"maps": {"apiKey": RED, "env": {"MAPS_ID": RED}}}}
        }
        assert "s3cret" not in str(got)
        assert "hidden" not in str(got)
        got["config"]["skills"]["entries"]["maps"]["enabled"] = True
        done = await written(rig.front, got["config"], baseHash=got["hash"])
        assert "s3cret" not in str(done)
        await rig.front.call("config.patch", {"raw": json.dumps({"agent": {"systemPrompt": "x"}})})
        text = (tenant_dir / "config.yaml").read_text()
        assert "s3cret" in text
        assert "hidden" in text
        elsewhere = {"skills": {"entries": {"other": {"apiKey": RED}}}}
        error = await rig.front.refused("config.set", {"raw": json.dumps(elsewhere)})
        assert error.details == {"field": "raw.skills.entries.other.apiKey"}


def test_what_is_marked_as_secret_is_what_is_redacted() -> None:
    schema = msgspec.json.schema(config.Overlay, ref_template="{name}")
    marked: set[tuple[str, ...]] = set()

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"]]
        if node.get("writeOnly"):
            marked.add(path)
        for name, inner in node.get("properties", {}).items():
            walk(inner, (*path, name))
        if isinstance(node.get("additionalProperties"), dict):
            walk(node["additionalProperties"], (*path, "*"))

    walk(schema, ())
    assert marked == set(config.SECRETS)
    assert secrets.redacted({"agent": {"model": "m"}}) == {"agent": {"model": "m"}}


async def test_the_schema_says_what_may_be_written(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        got = await rig.front.call("config.schema")
    assert got["schema"]["$defs"]["Overlay"]["additionalProperties"] is False
    assert got["uiHints"]["skills.entries.*.apiKey"] == {"sensitive": True}


async def test_turns_are_run_with_it(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        for text in ("a", "b"):
            provider.open(text)
        send = {"sessionKey": KEY, "message": "a"}
        await rig.front.stream("chat.send", send).result()
        agent = {"systemPrompt": "Be brief.", "model": "gated/other", "tools": {"allow": []}}
        await written(rig.front, {"agent": agent})
        await rig.front.stream("chat.send", {**send, "message": "b"}).result()
        listed = await rig.front.call("sessions.list")
    first, second = provider.requests
    assert (first.model, first.messages[0].role) == ("gated/test", "user")
    # Nothing may be fetched unless the operator names hosts.
    assert {tool.name for tool in first.tools} == CATALOGUE.tools.keys() - {"fetch"}
    assert (second.model, second.tools) == ("gated/other", ())
    assert second.messages[0].role == "system"
    assert second.messages[0].parts[0].text == "Be brief."  # type: ignore[union-attr]
    assert listed["defaults"] == {"modelProvider": "gated", "model": "gated/other"}


@pytest.mark.parametrize("text", ["gateway: {}", "a: [", "x" * (limits.OVERLAY_BYTES_MAX + 1)])
async def test_a_file_that_cannot_be_used_is_said_and_replaced(tenant_dir: Path, text: str) -> None:
    (tenant_dir / "config.yaml").write_text(text)
    async with running_worker() as rig:
        got = await rig.front.call("config.get")
        assert (got["valid"], got["exists"], got["config"], len(got["issues"])) == (
            False,
            True,
            {},
            1,
        )
        error = await rig.front.refused("config.patch", {"raw": "{}"})
        assert error.code is ErrorCode.CONFLICT
        # What it would have forbidden is not known: no turn runs until it is replaced.
        sent = rig.front.stream("chat.send", {"sessionKey": KEY, "message": "hello"})
        with pytest.raises(GatewayError, match=r"config\.set replaces it") as refused:
            await sent.result()
        assert refused.value.code is ErrorCode.CONFLICT
        await written(rig.front, {}, baseHash=got["hash"])
        assert (await rig.front.call("config.get"))["valid"]
        sent = rig.front.stream("chat.send", {"sessionKey": KEY, "message": "works"})
        assert (await sent.result())["status"] == "ok"


async def test_a_link_in_its_place_is_not_followed(tenant_dir: Path) -> None:
    outside = tenant_dir.parent / "outside.yaml"
    outside.write_text("agent: {systemPrompt: theirs}\n")
    (tenant_dir / overlay.PATH).symlink_to(outside)
    async with running_worker() as rig:
        got = await rig.front.call("config.get")
        assert (got["valid"], got["config"]) == (False, {})
        await written(rig.front, {"agent": {"systemPrompt": "mine"}})
    assert outside.read_text() == "agent: {systemPrompt: theirs}\n"


async def test_too_much_is_refused(tenant_dir: Path) -> None:
    entries = {f"s{n}": {"apiKey": "é" * limits.SECRET_CHARS_MAX} for n in range(8)}
    async with running_worker() as rig:
        raw = json.dumps({"skills": {"entries": entries}}, ensure_ascii=False)
        error = await rig.front.refused("config.set", {"raw": raw})
    assert (error.code, error.details) == (ErrorCode.INVALID_REQUEST, {"field": "raw"})

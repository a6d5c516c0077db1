"""`config.*`: the tenant's own configuration, `config.yaml` in its directory.

The keys that a tenant may write are the fields of `Overlay`; no other key can be written.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import Mode, Profile
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.models import ModelId
from protocol.names import ACCOUNT_ID_PATTERN

REDACTED: Final = "__OPENCLAW_REDACTED__"
"""Stands for a secret in what is read; written back it means the secret that is there."""
SECRETS: Final = (("skills", "entries", "*", "apiKey"), ("skills", "entries", "*", "env", "*"))
"""Paths of the secrets; `*` is any name."""

_SECRET: Final = {"writeOnly": True}
Name = Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)]
Secret = Annotated[str, msgspec.Meta(max_length=limits.SECRET_CHARS_MAX, extra_json_schema=_SECRET)]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9_]{0,127}$(?!\n)")]


class ToolsSection(Params, frozen=True, kw_only=True):
    """`allow` are the only tools that agents are offered; left out: all there are."""

    allow: (
        Annotated[tuple[Name, ...], msgspec.Meta(max_length=limits.OVERLAY_NAMES_MAX)]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class AgentSection(Params, frozen=True, kw_only=True):
    """What turns are run with. `systemPrompt` is told to the model before anything else.

    The bounds of a turn lower those of the operator; higher ones change nothing.
    """

    model: ModelId | msgspec.UnsetType = msgspec.UNSET
    system_prompt: (
        Annotated[str, msgspec.Meta(max_length=limits.SYSTEM_PROMPT_CHARS_MAX)] | msgspec.UnsetType
    ) = msgspec.UNSET
    tools: ToolsSection | msgspec.UnsetType = msgspec.UNSET
    max_rounds: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    max_seconds: Annotated[float, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET


class SkillEntry(Params, frozen=True, kw_only=True):
    """One skill. `apiKey` and the values of `env` are secrets."""

    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    api_key: Secret | msgspec.UnsetType = msgspec.UNSET
    env: (
        Annotated[dict[VariableName, Secret], msgspec.Meta(max_length=limits.OVERLAY_NAMES_MAX)]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class SkillsSection(Params, frozen=True, kw_only=True):
    """Skills by name. They are kept for when there are skills; nothing reads them yet."""

    entries: (
        Annotated[dict[Name, SkillEntry], msgspec.Meta(max_length=limits.OVERLAY_NAMES_MAX)]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class SandboxSection(Params, frozen=True, kw_only=True):
    """What sandboxes are where no call and no tool says so; only what the operator allows."""

    mode: Mode | msgspec.UnsetType = msgspec.UNSET
    image: Profile | msgspec.UnsetType = msgspec.UNSET
    network: Profile | msgspec.UnsetType = msgspec.UNSET


class ToolEntry(Params, frozen=True, kw_only=True):
    """One tool. `sandbox` and `network` are those of what it runs, whatever a call says."""

    sandbox: Mode | msgspec.UnsetType = msgspec.UNSET
    network: Profile | msgspec.UnsetType = msgspec.UNSET


class Overlay(Params, frozen=True, kw_only=True):
    """The whole file: the allow-list of what a tenant may write."""

    agent: AgentSection | msgspec.UnsetType = msgspec.UNSET
    skills: SkillsSection | msgspec.UnsetType = msgspec.UNSET
    sandbox: SandboxSection | msgspec.UnsetType = msgspec.UNSET
    tools: (
        Annotated[dict[Name, ToolEntry], msgspec.Meta(max_length=limits.OVERLAY_NAMES_MAX)]
        | msgspec.UnsetType
    ) = msgspec.UNSET


Raw = Annotated[str, msgspec.Meta(max_length=limits.OVERLAY_BYTES_MAX)]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class GetParams(Params, frozen=True, kw_only=True):
    """None."""


class GetResult(Result, frozen=True, kw_only=True):
    """`config` as an object and `raw` as YAML, secrets redacted.

    `hash` is of the file as it is, for `baseHash`. A file that cannot be used (somebody else wrote
    it) is not `valid`: `issues` say why, and the gateway's own defaults are in force.
    """

    path: str
    exists: bool
    valid: bool
    hash: str
    raw: str
    config: dict[str, Any]
    issues: list[str] = msgspec.field(default_factory=list)


class SetParams(Params, frozen=True, kw_only=True):
    """`raw` is the whole configuration as YAML or JSON.

    With `baseHash` it is only written over the file of that hash.
    """

    raw: Raw
    base_hash: Hash | None = None


class PatchParams(Params, frozen=True, kw_only=True):
    """`raw` is a JSON merge patch (RFC 7396) as YAML or JSON: null takes a key away."""

    raw: Raw
    base_hash: Hash | None = None


class WriteResult(Result, frozen=True, kw_only=True):
    """The configuration as it is now, secrets redacted; in force with the next turn."""

    ok: Literal[True]
    path: str
    hash: str
    config: dict[str, Any]


class SchemaParams(Params, frozen=True, kw_only=True):
    """None."""


class SchemaResult(Result, frozen=True, kw_only=True):
    """`schema` is a JSON Schema. `uiHints` by path say what is secret (`sensitive`)."""

    schema: dict[str, Any]
    ui_hints: dict[str, dict[str, Any]]


GET: Final = declare(
    "config.get",
    params=GetParams,
    result=GetResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give the tenant's configuration, without its secrets.",
)
SET: Final = declare(
    "config.set",
    params=SetParams,
    result=WriteResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Replace the tenant's configuration.",
)
PATCH: Final = declare(
    "config.patch",
    params=PatchParams,
    result=WriteResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Change keys of the tenant's configuration.",
)
SCHEMA: Final = declare(
    "config.schema",
    params=SchemaParams,
    result=SchemaResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give the keys that the tenant's configuration may have.",
)

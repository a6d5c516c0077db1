"""`sessions.patch|reset|delete|compact`: changes of a session as a whole."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import IdempotencyKey, SessionKey
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.methods.sessions import DisplayName, Label, SessionRow


class PatchParams(Params, frozen=True, kw_only=True):
    """What is left out stays; null takes the name away."""

    key: SessionKey
    label: Label | msgspec.UnsetType | None = msgspec.UNSET
    display_name: DisplayName | msgspec.UnsetType | None = msgspec.UNSET
    idempotency_key: IdempotencyKey | None = None


class PatchResult(Result, frozen=True, kw_only=True):
    """The session as it is now."""

    ok: Literal[True]
    key: str
    entry: SessionRow


PATCH: Final = declare(
    "sessions.patch",
    params=PatchParams,
    result=PatchResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="Change a session's label or display name.",
)


class ResetParams(Params, frozen=True, kw_only=True):
    """The session's key."""

    key: SessionKey
    idempotency_key: IdempotencyKey | None = None


class ResetResult(Result, frozen=True, kw_only=True):
    """The session as it is now, with a new id; `archived` is the id of what it was.

    `runIds` are the turns that ran or waited and end as interrupted.
    """

    ok: Literal[True]
    key: str
    entry: SessionRow
    archived: str
    run_ids: list[str]


RESET: Final = declare(
    "sessions.reset",
    params=ResetParams,
    result=ResetResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Begin a new transcript under the same key; the old one is archived, its turns end.",
)


class DeleteParams(Params, frozen=True, kw_only=True):
    """Without `deleteTranscript` the transcript is archived instead."""

    key: SessionKey
    delete_transcript: bool = True
    idempotency_key: IdempotencyKey | None = None


class DeleteResult(Result, frozen=True, kw_only=True):
    """`archived` are the ids of transcripts that are still there; `runIds` as with a reset."""

    ok: Literal[True]
    key: str
    deleted: Literal[True]
    archived: list[str]
    run_ids: list[str]


DELETE: Final = declare(
    "sessions.delete",
    params=DeleteParams,
    result=DeleteResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Delete a session with its transcript and what was archived of it; its turns end.",
)


class CompactParams(Params, frozen=True, kw_only=True):
    """`maxLines` is how many of the newest rows stay as they are."""

    key: SessionKey
    max_lines: Annotated[int, msgspec.Meta(ge=1, le=limits.COMPACT_KEPT_MAX)] = 400
    idempotency_key: IdempotencyKey | None = None


class CompactResult(Result, frozen=True, kw_only=True):
    """`cut` rows were moved to the archive of id `archived`; a summary stands in their place.

    `kept` rows stay beside the summary. Where nothing is old enough, nothing is done.
    """

    ok: Literal[True]
    key: str
    compacted: bool
    kept: int
    cut: int
    archived: str | None = None
    summary: str | None = None


COMPACT: Final = declare(
    "sessions.compact",
    params=CompactParams,
    result=CompactResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Replace the older rows of a transcript by a summary; they are archived.",
)

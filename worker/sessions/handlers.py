"""The handlers of `sessions.*` that make sessions and look at them."""

import uuid

from protocol import names
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import sessions
from worker.dispatch import CallContext, Later, handles
from worker.sessions import keys, reads, requests, search
from worker.sessions.admissions import Admission, NewSession, NewTurn
from worker.sessions.pages import Page, StoredListing


def no_session(field: str) -> GatewayError:
    """Give the refusal of a session that is not there."""
    return GatewayError(ErrorCode.NOT_FOUND, "no such session", field=field)


def agent_of(key: str | None, named: str | None, key_field: str) -> str:
    """Give the agent that a key and a parameter `agentId` name together.

    Raises:
        GatewayError: INVALID_REQUEST: they differ, or the key is none. NOT_FOUND: no such agent.
    """
    if key is not None:
        of_key = keys.agent_of(keys.checked(key, key_field))
        if named not in (None, of_key):
            message = f"{key_field} and agentId name different agents"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="agentId")
        named = of_key
    if named not in (None, names.DEFAULT_AGENT_ID):
        field = "agentId" if key is None else key_field
        raise GatewayError(ErrorCode.NOT_FOUND, "no such agent", field=field)
    return names.DEFAULT_AGENT_ID


def new_turn(message: str) -> NewTurn:
    """Give a turn that answers this message."""
    return NewTurn(str(uuid.uuid4()), str(uuid.uuid4()), message)


@handles(sessions.CREATE)
async def create(call: CallContext, params: sessions.CreateParams) -> sessions.CreateResult:
    """Make a session, or give the one that has this key; start its first turn."""
    services = call.services
    agent_id = agent_of(params.key, params.agent_id, "key")
    now = services.clock.now_ms()
    admitted = await services.turns.admit(
        Admission(
            params.key or keys.for_dashboard(agent_id),
            NewSession(str(uuid.uuid4()), agent_id, params.label, params.display_name, None),
            None if params.message is None else new_turn(params.message),
            requests.of_call(sessions.CREATE, params, call.idempotency_key, now),
        )
    )
    entry = reads.session(services.sessions.read(), admitted.key)
    if entry is None:
        raise no_session("key")
    run = admitted.run
    return sessions.CreateResult(
        ok=True,
        key=entry.key,
        session_id=entry.session_id,
        entry=entry,
        run_started=run is not None and run.state != "queued",
        created=admitted.created,
        run_id=run.id if run else None,
        message_seq=run.message_seq if run else None,
    )


@handles(sessions.LIST)
def list_sessions(call: CallContext, params: sessions.ListParams) -> StoredListing | Later:
    """List the sessions, newest first; what takes a look at every session, in a thread."""
    services = call.services
    now = services.clock.now_ms()
    if reads.is_slow(params):
        return Later(lambda: _list_slowly(call, params, now))
    page = services.pages.get(services.sessions.read(), params, now)
    return _listing(call, page, now)


async def _list_slowly(call: CallContext, params: sessions.ListParams, now: int) -> StoredListing:
    page = await call.services.sessions.read_slowly(
        lambda connection: Page.of(*reads.sessions(connection, params, now))
    )
    return _listing(call, page, now)


def _listing(call: CallContext, page: Page, now: int) -> StoredListing:
    services = call.services
    model = services.turns.catalogue(services.overlay.last_seen.agent).model
    return StoredListing(
        ts=now,
        count=page.count,
        total=page.total,
        defaults=sessions.ListDefaults(model_provider=model.split("/", 1)[0], model=model),
        sessions=page.rows,
    )


@handles(sessions.GET)
def get(call: CallContext, params: sessions.GetParams) -> sessions.GetResult:
    """Give one session, how its newest turn stands, and what is archived of it."""
    key = keys.checked(params.key, "key")
    reader = call.services.sessions.read()
    row = reads.session(reader, key)
    if row is None:
        raise no_session("key")
    run_id, status = reads.newest_run(reader, key) or (None, None)
    return sessions.GetResult(
        session=row, archives=reads.archives(reader, key), run_id=run_id, run_status=status
    )


@handles(sessions.RESOLVE)
def resolve(call: CallContext, params: sessions.ResolveParams) -> sessions.ResolveResult:
    """Find a session by one of its names."""
    given = {
        field: value
        for field, value in (
            ("key", params.key),
            ("sessionId", params.session_id),
            ("label", params.label),
        )
        if value is not None
    }
    if len(given) != 1:
        message = "give exactly one of key, sessionId and label"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="key")
    ((field, value),) = given.items()
    if field == "key":
        keys.checked(value, field)
    found = reads.resolve(call.services.sessions.read(), reads.RESOLVED_BY[field], value)
    if params.agent_id is not None:
        found = [row for row in found if row.agent_id == params.agent_id]
    if len(found) > 1:
        message = "more than one session has this label; name it by its key"
        raise GatewayError(ErrorCode.CONFLICT, message, field=field)
    if found:
        return sessions.ResolveResult(ok=True, key=found[0].key)
    if params.allow_missing:
        return sessions.ResolveResult(ok=False)
    raise no_session(field)


@handles(sessions.PREVIEW)
async def preview(call: CallContext, params: sessions.PreviewParams) -> sessions.PreviewResult:
    """Give the beginnings of the newest rows of sessions."""
    for index, key in enumerate(params.keys):
        keys.checked(key, f"keys[{index}]")
    now = call.services.clock.now_ms()
    previews = await call.services.sessions.read_slowly(
        lambda connection: search.previews(connection, params)
    )
    return sessions.PreviewResult(ts=now, previews=previews)


@handles(sessions.SEARCH)
async def find(call: CallContext, params: sessions.SearchParams) -> sessions.SearchResult:
    """Search messages and names."""
    if params.key is not None:
        keys.checked(params.key, "key")
    match = search.expression(params.query)
    return await call.services.sessions.read_slowly(
        lambda connection: search.search(connection, params, match)
    )

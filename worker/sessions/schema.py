"""The tables of `sessions/sessions.sqlite`. The file is one tenant's; nothing in it names one."""

from typing import Final

PATH: Final = "sessions/sessions.sqlite"

_FIRST: Final = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    label TEXT,
    display_name TEXT,
    channel TEXT,
    model TEXT,
    created_at INTEGER NOT NULL, -- Unix ms, as every time here
    updated_at INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    preview TEXT,
    search TEXT NOT NULL -- key, label and display name with case folded
) STRICT;
CREATE INDEX sessions_by_update ON sessions (updated_at, id);

CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'ok', 'error', 'interrupted')),
    owner INTEGER, -- the generation that runs it
    lease_expires_at INTEGER,
    message_seq INTEGER NOT NULL,
    reply_seq INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    error TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    CHECK (state <> 'running' OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL))
) STRICT;
-- One turn at a time in a session, whoever runs it.
CREATE UNIQUE INDEX runs_running ON runs (session) WHERE state = 'running';
CREATE INDEX runs_queued ON runs (session, seq) WHERE state = 'queued';
CREATE INDEX runs_of_session ON runs (session, seq);

CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    run INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    content BLOB NOT NULL, -- JSON: a list of parts
    timestamp INTEGER NOT NULL,
    model TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    stop_reason TEXT
) STRICT;
CREATE INDEX messages_of_session ON messages (session, seq);

-- Idempotency keys: what they were given for, and what came of it.
CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    run INTEGER REFERENCES runs (seq) ON DELETE CASCADE,
    created INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_age ON requests (created_at);
"""

# Who wants a turn ended may talk to another generation than the one that runs it.
_ABORTS: Final = "ALTER TABLE runs ADD COLUMN abort_requested_at INTEGER;"

MIGRATIONS: Final = (_FIRST, _ABORTS)

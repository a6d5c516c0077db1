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

# Notes that belong to no turn; transcripts that are archived; what was said, by its words; the
# answers of repeated requests as they were given.
_TRANSCRIPTS: Final = """
-- An archived transcript is a session that no key leads to: `key` is one that nobody can name.
ALTER TABLE sessions ADD COLUMN archived_at INTEGER;
ALTER TABLE sessions ADD COLUMN archived_key TEXT; -- whose transcript it was
ALTER TABLE sessions ADD COLUMN archived_why TEXT
    CHECK (archived_why IN ('reset', 'compact', 'delete', 'purge')); -- purge: to be removed
DROP INDEX sessions_by_update;
CREATE INDEX sessions_by_update ON sessions (updated_at, id) WHERE archived_at IS NULL;
CREATE INDEX sessions_by_label ON sessions (label)
    WHERE archived_at IS NULL AND label IS NOT NULL;
CREATE INDEX sessions_archived ON sessions (archived_key, id) WHERE archived_at IS NOT NULL;
CREATE INDEX sessions_to_purge ON sessions (id) WHERE archived_why = 'purge';

CREATE TABLE new_messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    run INTEGER, -- of `runs`, while that is there
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool', 'system')),
    content BLOB NOT NULL, -- JSON: a list of parts
    timestamp INTEGER NOT NULL,
    label TEXT,
    model TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    stop_reason TEXT
) STRICT;
INSERT INTO new_messages
    SELECT seq, id, session, run, role, content, timestamp, NULL, model, input_tokens,
        output_tokens, stop_reason FROM messages ORDER BY seq;
DROP TABLE messages;
ALTER TABLE new_messages RENAME TO messages;
CREATE INDEX messages_of_session ON messages (session, seq);

-- Instead of `requests`: what was answered, whatever the method.
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    fingerprint BLOB, -- NULL: of a version that made them otherwise
    answer BLOB NOT NULL, -- JSON
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO answers
    SELECT q.key, NULL, CAST(json_object(
        'key', s.key, 'created', json(iif(q.created, 'true', 'false')), 'run', r.id
    ) AS BLOB), q.created_at
    FROM requests AS q JOIN sessions AS s ON s.id = q.session LEFT JOIN runs AS r ON r.seq = q.run;
DROP TABLE requests;
CREATE INDEX answers_by_age ON answers (created_at);

CREATE VIEW message_texts AS SELECT seq, (
    SELECT group_concat(json_extract(part.value, '$.text'), char(10))
    FROM json_each(CAST(content AS TEXT)) AS part
    WHERE json_extract(part.value, '$.type') = 'text'
) AS text FROM messages;
CREATE VIRTUAL TABLE message_words USING fts5 (
    text, content = 'message_texts', content_rowid = 'seq',
    columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    INSERT INTO message_words (rowid, text)
        SELECT seq, text FROM message_texts WHERE seq = new.seq;
END;
CREATE TRIGGER message_removed BEFORE DELETE ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, text)
        SELECT 'delete', seq, text FROM message_texts WHERE seq = old.seq;
END;
-- Not by `rebuild`, which may not use another virtual table such as `json_each`.
INSERT INTO message_words (rowid, text) SELECT seq, text FROM message_texts;

CREATE VIEW session_names AS SELECT id, concat_ws(char(10), label, display_name) AS names
    FROM sessions WHERE coalesce(label, display_name) IS NOT NULL;
CREATE VIRTUAL TABLE session_words USING fts5 (
    names, content = 'session_names', content_rowid = 'id',
    columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER session_named AFTER INSERT ON sessions BEGIN
    INSERT INTO session_words (rowid, names)
        SELECT id, names FROM session_names WHERE id = new.id;
END;
CREATE TRIGGER session_to_be_renamed BEFORE UPDATE OF label, display_name ON sessions BEGIN
    INSERT INTO session_words (session_words, rowid, names)
        SELECT 'delete', id, names FROM session_names WHERE id = old.id;
END;
CREATE TRIGGER session_renamed AFTER UPDATE OF label, display_name ON sessions BEGIN
    INSERT INTO session_words (rowid, names)
        SELECT id, names FROM session_names WHERE id = new.id;
END;
CREATE TRIGGER session_removed BEFORE DELETE ON sessions BEGIN
    INSERT INTO session_words (session_words, rowid, names)
        SELECT 'delete', id, names FROM session_names WHERE id = old.id;
END;
INSERT INTO session_words (session_words) VALUES ('rebuild');
"""

# What one turn alone is told beside the prompt that its agent has.
_INSTRUCTIONS: Final = "ALTER TABLE runs ADD COLUMN instructions TEXT;"

# What a turn used and cost, class by class; the code of the error that ended it; in which sandbox
# its tools run unless they say so.
_SPENT: Final = """
ALTER TABLE messages ADD COLUMN spent BLOB; -- JSON: the whole `Usage`
ALTER TABLE runs ADD COLUMN spent BLOB;
ALTER TABLE runs ADD COLUMN error_code TEXT;
ALTER TABLE runs ADD COLUMN sandbox TEXT;
"""

MIGRATIONS: Final = (_FIRST, _ABORTS, _TRANSCRIPTS, _INSTRUCTIONS, _SPENT)

"""Every bound of the wire in one place.

A peer that goes over one of these is refused or cut off; nothing in this project buffers, waits or
names without a bound written here or beside the one place that uses it.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Frames between our own processes.
FRAME_BYTES_MAX: Final = 8 * MIB
CHUNK_BYTES_MAX: Final = 64 * KIB
METHOD_NAME_CHARS_MAX: Final = 64
SCOPE_BITS_MAX: Final = 255
ERROR_CODE_CHARS_MAX: Final = 64
ERROR_MESSAGE_CHARS_MAX: Final = 1024
CALLS_IN_FLIGHT_MAX: Final = 1024
STREAM_CREDIT_MAX: Final = 256
STREAM_CREDIT_INITIAL: Final = 16
# So much is handed to the kernel at once: less than what it takes, and than what malloc maps.
LINK_WRITE_BYTES: Final = 64 * KIB
# Smaller ones of many bytes are put together.
PIECE_BYTES: Final = 32 * KIB
LINK_WRITE_BUFFER_HIGH: Final = 1 * MIB
LINK_WRITE_BUFFER_LOW: Final = 256 * KIB
LINK_WRITE_BUFFER_MAX: Final = 64 * MIB

# The descriptor channel. The kernel itself stops at about 212 kB a message.
DESCRIPTOR_MESSAGE_BYTES_MAX: Final = 64 * KIB
DESCRIPTORS_PER_MESSAGE_MAX: Final = 8

# Names.
TENANT_ID_CHARS_MAX: Final = 40
ACCOUNT_ID_CHARS_MAX: Final = 64
SESSION_KEY_CHARS_MAX: Final = 1024
IDEMPOTENCY_KEY_CHARS_MAX: Final = 200
LABEL_CHARS_MAX: Final = 512
DISPLAY_NAME_CHARS_MAX: Final = 500

# HTTP, as the front takes it from clients.
HTTP_HEADER_BYTES_MAX: Final = 16 * KIB
HTTP_HEADER_COUNT_MAX: Final = 64
HTTP_TARGET_BYTES_MAX: Final = 2 * KIB
# A body travels inside one frame, so it must leave room for the frame's other fields.
HTTP_BODY_BYTES_MAX: Final = FRAME_BYTES_MAX - 64 * KIB
HTTP_CONTROL_BODY_BYTES_MAX: Final = 64 * KIB
HTTP_CONNECTIONS_MAX: Final = 8192
# Of one address (IPv4) or network (IPv6, /64), unless the configuration says otherwise.
HTTP_CONNECTIONS_PER_ADDRESS_MAX: Final = 1024
TLS_HANDSHAKE_SECONDS: Final = 10.0
TLS_SHUTDOWN_SECONDS: Final = 2.0
# Those over it that are kept until they have heard so.
HTTP_REFUSED_CONNECTIONS_MAX: Final = 64
HTTP_PIPELINED_REQUESTS_MAX: Final = 16
HTTP_IDLE_SECONDS: Final = 75.0
HTTP_HEADER_SECONDS: Final = 10.0
HTTP_BODY_SECONDS: Final = 60.0
HTTP_WRITE_SECONDS: Final = 60.0
HTTP_LINGER_SECONDS: Final = 2.0
# What the kernel keeps of what a client sends and nobody has read; it may double it.
HTTP_RECEIVE_BUFFER_BYTES: Final = 128 * KIB
HTTP_WRITE_BUFFER_HIGH: Final = 256 * KIB
# What is read of a refused request to keep its connection in step; more than this closes it.
HTTP_DISCARD_BYTES_MAX: Final = 64 * KIB
BEARER_CHARS_MAX: Final = 512

# So much is read of one client at once; who has sent half of it is read from again when it is its
# turn, and so many tenants have theirs at once.
READ_BYTES_MAX: Final = 64 * KIB
BIG_READ_BYTES: Final = 32 * KIB
TURNS_AT_ONCE: Final = 4
# What is on its way to a worker: so much is copied for it at once.
LINK_SEND_BYTES: Final = 64 * KIB

# JSON-RPC.
# In what is bigger, the front does not look for where the params end: 8 MiB of JSON take it 25 ms.
RPC_SCANNED_BYTES_MAX: Final = 256 * KIB
BATCH_BYTES_MAX: Final = 1 * MIB
RPC_ID_CHARS_MAX: Final = 256
BATCH_MEMBERS_MAX: Final = 50
# What the front keeps of a batch's answers until the last one is there.
BATCH_ANSWER_BYTES_MAX: Final = 16 * MIB
JSON_INTEGER_ABS_MAX: Final = 2**53

# WebSockets. They are connections too, and leave some for others; so do those of one tenant.
SOCKETS_MAX: Final = 6144
SOCKETS_PER_TENANT_MAX: Final = 2048
SOCKET_MESSAGE_BYTES_MAX: Final = HTTP_BODY_BYTES_MAX
SOCKET_FRAGMENTS_MAX: Final = 1024
SOCKET_CALLS_MAX: Final = 128
# Of a message that is not complete this much is not counted against its tenant.
SOCKET_UNCOUNTED_BYTES: Final = 4 * KIB
SOCKET_MESSAGE_SECONDS: Final = 60.0
SOCKET_PING_SECONDS: Final = 30.0
SOCKET_PONG_SECONDS: Final = 20.0
# What a client has not taken: events above the one are dropped, answers above the other end it.
SOCKET_EVENT_BUFFER_BYTES_MAX: Final = 512 * KIB
SOCKET_ANSWER_BUFFER_BYTES_MAX: Final = 16 * MIB
# A refusal on a WebSocket closes it with this and the status of HTTP, among the numbers that are
# nobody's (RFC 6455, section 7.4.2).
SOCKET_REFUSED_CODE: Final = 4000
# How long a client that was cut off has for the reason.
SOCKET_CUT_SECONDS: Final = 0.5

# Events. A worker sends no more than this; one that sends twice as much breaks its link.
EVENT_BYTES_MAX: Final = 256 * KIB
EVENTS_PER_SECOND: Final = 2000
EVENTS_BURST: Final = 4000
EVENT_BYTES_PER_SECOND: Final = 8 * MIB
EVENT_BYTES_BURST: Final = 16 * MIB
# What the front does for the listeners of one tenant; a big event counts as several deliveries.
EVENT_DELIVERIES_PER_SECOND: Final = 20_000
EVENT_DELIVERIES_BURST: Final = 40_000
EVENT_DELIVERY_BYTES: Final = 4 * KIB
# What a worker keeps for those who poll, and how long after the last of them.
EVENTS_KEPT_MAX: Final = 4096
EVENTS_KEPT_BYTES_MAX: Final = 4 * MIB
EVENTS_KEPT_SECONDS: Final = 120.0
EVENTS_POLL_MAX: Final = 1000
EVENTS_POLL_DEFAULT: Final = 100
EVENTS_WAIT_MS_MAX: Final = 25_000

# What waits in the front for a worker that is starting.
HOLD_CALLS_MAX: Final = 256
HOLD_BYTES_MAX: Final = 16 * MIB
HOLD_SECONDS: Final = 10.0
TENANT_CALLS_IN_FLIGHT_MAX: Final = 512
# Request bodies that are read or in flight, and answers that a client does not take. One tenant's
# must stay well below LINK_WRITE_BUFFER_MAX, or its own clients could cut its worker off.
TENANT_BYTES_IN_FLIGHT_MAX: Final = 32 * MIB
FRONT_BYTES_IN_FLIGHT_MAX: Final = 512 * MIB
CONTROL_CALLS_IN_FLIGHT_MAX: Final = 64

# The control plane.
CONTROL_PAGE_MAX: Final = 1000
CONTROL_PAGE_DEFAULT: Final = 100
# How long, and how many, answers are kept for whoever repeats a request with its key.
CONTROL_REPLAY_SECONDS: Final = 600.0
CONTROL_REPLAYS_MAX: Final = 1024
# What one request reads of the audit at most; the answer says where to go on.
AUDIT_SCAN_BYTES_MAX: Final = 4 * MIB

# Tokens.
TOKENS_PER_TENANT_MAX: Final = 64
TOKEN_SECONDS_MAX: Final = 10 * 366 * 86_400
TOKEN_OVERLAP_SECONDS_MAX: Final = 86_400

# Waits.
CALL_SECONDS_DEFAULT: Final = 30.0
CALL_SECONDS_MAX: Final = 600.0
WORKER_READY_SECONDS: Final = 10.0
# Processes that wait to become a worker. As many wakes at once as this are quick, and each costs
# about as much memory as a worker.
SPARES: Final = 4
SPARE_ANSWER_SECONDS: Final = 1.0
# A new one is not made before the workers that start now serve, but at the latest after this.
SPARE_DELAY_SECONDS: Final = 0.05
PING_INTERVAL_SECONDS: Final = 2.0
PING_MISSES_MAX: Final = 3
ABORT_GRACE_SECONDS: Final = 2.0
DRAIN_SECONDS: Final = 30.0
DRAIN_SECONDS_MAX: Final = 3600.0

# Text from outside.
MESSAGE_CHARS_MAX: Final = 256 * KIB
HISTORY_MESSAGES_MAX: Final = 1000
HISTORY_MESSAGES_DEFAULT: Final = 200
HISTORY_BYTES_MAX: Final = 6 * MIB
SESSIONS_PAGE_MAX: Final = 1000
SESSIONS_PAGE_DEFAULT: Final = 200
TURNS_QUEUED_PER_SESSION_MAX: Final = 64
TURNS_RUNNING_PER_TENANT_MAX: Final = 64
NOTE_LABEL_CHARS_MAX: Final = 100
PREVIEW_KEYS_MAX: Final = 64
PREVIEW_ITEMS_MAX: Final = 32
PREVIEW_CHARS_MAX: Final = 500
COMPACT_KEPT_MAX: Final = 1000
ARCHIVES_SHOWN_MAX: Final = 20
SEARCH_QUERY_CHARS_MAX: Final = 1024
SEARCH_TERMS_MAX: Final = 32
SEARCH_HITS_MAX: Final = 100
SNIPPET_CHARS_MAX: Final = 400
IDEMPOTENCY_KEPT_SECONDS: Final = 24 * 3600
# A tenant's `config.yaml`.
OVERLAY_BYTES_MAX: Final = 64 * KIB
OVERLAY_NAMES_MAX: Final = 128
SYSTEM_PROMPT_CHARS_MAX: Final = 16 * KIB
SECRET_CHARS_MAX: Final = 4096

# What a tenant asks of the supervisor, through the front.
TENANT_REQUESTS_IN_FLIGHT_MAX: Final = 64
TENANT_REQUESTS_PER_TENANT_MAX: Final = 2
TENANT_REQUESTS_PER_WINDOW_MAX: Final = 60
TENANT_REQUESTS_WINDOW_SECONDS: Final = 10.0
TENANT_REQUEST_BYTES_MAX: Final = 16 * KIB
TOKEN_ROTATIONS_MAX: Final = 10
TOKEN_ROTATIONS_WINDOW_SECONDS: Final = 60.0

# Failed authentication.
AUTH_FAILURES_FREE: Final = 10
AUTH_FAILURE_WINDOW_SECONDS: Final = 60.0
AUTH_FAILURE_DELAY_SECONDS_MAX: Final = 2.0
AUTH_FAILURE_KEYS_MAX: Final = 10_000
AUTH_FAILURES_WAITING_MAX: Final = 256

# What a tenant's limits may be: at least what its worker and a small sandbox need.
TENANT_MEMORY_BYTES_MIN: Final = 64 * MIB
TENANT_MEMORY_BYTES_MAX: Final = 2**50
TENANT_CPUS_MIN: Final = 0.01
TENANT_CPUS_MAX: Final = 1024
TENANT_PIDS_MIN: Final = 16
TENANT_PIDS_MAX: Final = 2**22
TENANT_DISK_BYTES_MIN: Final = 16 * MIB
TENANT_DISK_BYTES_MAX: Final = 2**53
TENANT_DISK_INODES_MIN: Final = 100
TENANT_DISK_INODES_MAX: Final = 2**40

# Sandboxes. A worker asks the launcher no more than this; one that asks twice as much breaks its
# link.
LAUNCHER_CALLS_PER_SECOND: Final = 1000
LAUNCHER_CALLS_BURST: Final = 256
# How long a worker's call waits for a launcher that is being replaced.
LAUNCHER_WAIT_SECONDS: Final = 5.0
SANDBOX_ARGUMENTS_MAX: Final = 4096
SANDBOX_ARGUMENT_BYTES_MAX: Final = 128 * KIB - 1  # Linux's MAX_ARG_STRLEN, less the NUL
SANDBOX_ARGV_BYTES_MAX: Final = 1 * MIB
SANDBOX_VARIABLES_MAX: Final = 128
SANDBOX_PATH_BYTES_MAX: Final = 4096
SANDBOX_SECONDS_MAX: Final = 3600.0
SANDBOX_SECONDS_DEFAULT: Final = 60.0
# What one call may ask for: it ends itself before the call's own time is over.
SANDBOX_CALL_SECONDS_MAX: Final = 570.0
SANDBOX_INPUT_BYTES_MAX: Final = 4 * MIB
# Of each of stdout and stderr, in a result; a stream gives all there is.
SANDBOX_OUTPUT_BYTES_MAX: Final = 1 * MIB
# Of one call; what is longer is read in ranges.
SANDBOX_FILE_BYTES_MAX: Final = 4 * MIB
SANDBOX_FILES_PAGE_MAX: Final = 1000
SANDBOX_FILES_PAGE_DEFAULT: Final = 200
SANDBOX_FILES_LISTED_MAX: Final = 100_000
SANDBOX_FILES_DELETED_MAX: Final = 10_000
SANDBOX_FILES_DEPTH_MAX: Final = 64
SANDBOX_FILE_NAME_BYTES_MAX: Final = 255  # Linux's NAME_MAX
# Messages with pipes that no call has named yet.
SANDBOX_STDIO_WAITING_MAX: Final = 16

# Terminals.
TERMINAL_COLUMNS_MAX: Final = 2000
TERMINAL_ROWS_MAX: Final = 2000
TERMINAL_SCROLLBACK_BYTES_MAX: Final = 256 * KIB
# In JSON it is a third more, and must fit a chunk there.
TERMINAL_CHUNK_BYTES_MAX: Final = 32 * KIB
TERMINAL_WRITE_BYTES_MAX: Final = 64 * KIB
# What waits to be written to one, and how long a write waits for a program that does not read.
TERMINAL_WRITES_WAITING_MAX: Final = 16
TERMINAL_WRITE_SECONDS: Final = 5.0
# A message of a client, what is typed or what is to be done; and how much may
# have been typed and not be taken before it is read from no more, and before it is again.
TERMINAL_MESSAGE_BYTES_MAX: Final = 1 * MIB
TERMINAL_TYPED_BYTES_HIGH: Final = 256 * KIB
TERMINAL_TYPED_BYTES_LOW: Final = 64 * KIB
# How long the front looks for a terminal that it was attached to, while workers change.
TERMINAL_AWAY_SECONDS: Final = 30.0
TERMINAL_WRITER_CHARS_MAX: Final = 64
TERMINAL_WRITERS_MAX: Final = 64
TERMINAL_WATCHERS_MAX: Final = 16
# How much of its output is taken in a second; and how long its program waits for a watcher that
# takes nothing, before what that one has not seen is overwritten.
TERMINAL_BYTES_PER_SECOND: Final = 8 * MIB
TERMINAL_STALL_SECONDS: Final = 5.0
# How long one that has ended is kept for those who come back.
TERMINAL_ENDED_SECONDS: Final = 60.0
# Lines of the audit about a tenant's terminals.
TERMINAL_EVENTS_PER_SECOND: Final = 0.5
TERMINAL_EVENTS_BURST: Final = 60

# Containers that wait to be used: kinds of them, and how long. Each is about 1 MB.
DOCKER_SHAPES_MAX: Final = 64
DOCKER_SHAPES_PER_TENANT_MAX: Final = 4
DOCKER_IDLE_SECONDS: Final = 120.0
DOCKER_STARTS_MAX: Final = 4

# What a tenant asks of the ledger: so much in an answer, and so many who wait for one.
USAGE_ROWS_MAX: Final = 5000
USAGE_ROWS_DEFAULT: Final = 1000
# In JSON it can be six times as much, and must fit a frame.
USAGE_ROWS_BYTES_MAX: Final = 1 * MIB
USAGE_MONTHS_MAX: Final = 24
USAGE_MONTHS_DEFAULT: Final = 6
USAGE_DAYS_MAX: Final = 366
USAGE_DAYS_DEFAULT: Final = 30
USAGE_SESSIONS_MAX: Final = 1000
USAGE_SESSIONS_DEFAULT: Final = 50
USAGE_SECONDS: Final = 5.0
USAGE_WAITING_MAX: Final = 256
USAGE_WAITING_PER_TENANT_MAX: Final = 4

# Connections through the proxy of sandboxes at a time: of one, of a tenant's, of all.
PROXY_CONNECTIONS_PER_SANDBOX_MAX: Final = 64
PROXY_CONNECTIONS_PER_TENANT_MAX: Final = 256
PROXY_CONNECTIONS_MAX: Final = 4096
# Over this pace those of a sandbox wait in its own backlog.
PROXY_CONNECTIONS_PER_SECOND: Final = 100
PROXY_CONNECTIONS_BURST: Final = 256
PROXY_HEAD_BYTES_MAX: Final = 16 * KIB
PROXY_HEAD_SECONDS: Final = 10.0
# Without a byte either way.
PROXY_IDLE_SECONDS: Final = 120.0
# When bytes are charged at the latest: so many of a sandbox may be lost with an egress that is
# killed.
PROXY_CHARGE_SECONDS: Final = 60.0
PROXY_CHARGE_BYTES: Final = 64 * MIB
# Models. Those of a request, and what one call may ask for.
MODEL_MESSAGES_MAX: Final = 4096
MODEL_TOOLS_MAX: Final = 128
MODEL_TOKENS_MAX: Final = 1_000_000
EMBED_TEXTS_MAX: Final = 2048
# `user` of OpenAI's clients: percent-encoded it has to fit a session key.
OPENAI_USER_CHARS_MAX: Final = 128
# Where a call does not fit into a quota and less than this is left, its window is over: two or
# three times what is set aside for the first turn of an agent with all tools.
QUOTA_REST_TOKENS: Final = 16_384
# A worker asks egress no more than this; one that asks twice as much breaks its link.
EGRESS_CALLS_PER_SECOND: Final = 4000
EGRESS_CALLS_BURST: Final = 1024
# What all its calls that wait for an answer may hold.
EGRESS_BYTES_IN_FLIGHT_MAX: Final = 64 * MIB
# How long a worker's call waits for an egress that is being replaced.
EGRESS_WAIT_SECONDS: Final = 5.0
# What the tool `fetch` gets at most.
FETCH_URL_CHARS_MAX: Final = 4096
FETCH_BYTES_MAX: Final = 1 * MIB

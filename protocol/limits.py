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
LINK_WRITE_BUFFER_HIGH: Final = 1 * MIB
LINK_WRITE_BUFFER_LOW: Final = 256 * KIB
LINK_WRITE_BUFFER_MAX: Final = 64 * MIB

# The descriptor channel. The kernel itself stops at about 212 kB a message.
DESCRIPTOR_MESSAGE_BYTES_MAX: Final = 64 * KIB
DESCRIPTORS_PER_MESSAGE_MAX: Final = 8

# Names.
TENANT_ID_CHARS_MAX: Final = 40
ACCOUNT_ID_CHARS_MAX: Final = 64
AGENT_ID_CHARS_MAX: Final = 64
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
HTTP_WRITE_BUFFER_HIGH: Final = 256 * KIB
# What is read of a refused request to keep its connection in step; more than this closes it.
HTTP_DISCARD_BYTES_MAX: Final = 64 * KIB
BEARER_CHARS_MAX: Final = 512

# JSON-RPC.
RPC_ID_CHARS_MAX: Final = 256
JSON_INTEGER_ABS_MAX: Final = 2**53

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

# Failed authentication.
AUTH_FAILURES_FREE: Final = 10
AUTH_FAILURE_WINDOW_SECONDS: Final = 60.0
AUTH_FAILURE_DELAY_SECONDS_MAX: Final = 2.0
AUTH_FAILURE_KEYS_MAX: Final = 10_000
AUTH_FAILURES_WAITING_MAX: Final = 256

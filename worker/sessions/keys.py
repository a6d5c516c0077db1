"""Session keys and idempotency keys as they come in, and fingerprints of what they stand for."""

import hashlib
import re
import uuid
from typing import Final

import msgspec

from protocol import names
from protocol.errors import ErrorCode, GatewayError

_BY_CHANNEL: Final = "message:"
_NOT_PLAIN: Final = re.compile(r"[^a-z0-9@+._=-]")


def checked(key: str, field: str) -> str:
    """Give a session key back if it is one.

    Raises:
        GatewayError: INVALID_REQUEST naming `field`.
    """
    if not names.is_session_key(key):
        raise GatewayError(
            ErrorCode.INVALID_REQUEST,
            f"{field} is no session key: agent:<agent>:<name>[:<name>…], lower case",
            field=field,
        )
    return key


def agent_of(key: str) -> str:
    """Give the agent that a session key names."""
    return key.split(":", 2)[1]


def for_dashboard(agent_id: str) -> str:
    """Make a new key for a session that was asked for without one."""
    return f"agent:{agent_id}:dashboard:{uuid.uuid4()}"


def for_peer(agent_id: str, channel: str, account: str, user: str, conversation: str | None) -> str:
    """Give the key of a conversation with somebody on a channel.

    Whatever a key cannot hold is percent-encoded, `%` and `:` as well, so two users, or two
    conversations of one, never share a key.

    Args:
        agent_id: Who answers.
        channel: A channel's name.
        account: The channel's account.
        user: How the channel names who writes: printable ASCII, at most 120 characters.
        conversation: How it tells conversations of that user apart, if it does; as `user`.
    """
    key = f"agent:{agent_id}:{channel}:{account}:direct:{_encoded(user)}"
    return key if conversation is None else f"{key}:{_encoded(conversation)}"


def for_openai_user(agent_id: str, user: str) -> str:
    """Give the key of the conversation with a user of OpenAI's API.

    Args:
        agent_id: Who answers.
        user: Whatever text the client tells its users apart by; as `for_peer` for its characters.
    """
    return f"agent:{agent_id}:openai-user:{_encoded(user.encode().decode('latin-1'))}"


def _encoded(name: str) -> str:
    return _NOT_PLAIN.sub(lambda match: f"%{ord(match[0]):02x}", name)


def given_by_client(header: str | None, parameter: str | None) -> tuple[str, ...]:
    """Give the idempotency keys that a client gave; one, or none.

    Raises:
        GatewayError: INVALID_REQUEST: header and parameter differ, or the key is empty or has
            a NUL.
    """
    if header is not None and parameter is not None and header != parameter:
        raise GatewayError(
            ErrorCode.INVALID_REQUEST,
            "the header Idempotency-Key and the parameter idempotencyKey differ; give one",
            field="idempotencyKey",
        )
    key = parameter if header is None else header
    if key is None:
        return ()
    if not key or "\0" in key:
        raise GatewayError(
            ErrorCode.INVALID_REQUEST,
            "idempotencyKey must not be empty or contain NUL",
            field="idempotencyKey",
        )
    return (f"client:{key}",)


def given_by_channel(session_key: str, message_id: str) -> str:
    """Give the idempotency key of a channel's message.

    With the conversation in it: many channels count their messages for each one anew.
    """
    return f"{_BY_CHANNEL}{session_key}:{message_id}"


def field_of(request_key: str) -> str:
    """Give the field in which an idempotency key came in."""
    return "envelope.message_id" if request_key.startswith(_BY_CHANNEL) else "idempotencyKey"


def fingerprint(method: str, asked: object) -> bytes:
    """Give a hash (SHA-256) that tells whether two requests ask for the same.

    Args:
        method: A method's name.
        asked: What of the request counts: whatever msgspec encodes.
    """
    return hashlib.sha256(msgspec.msgpack.encode((method, asked))).digest()

"""What the answers of OpenAI's APIs have in common."""

import os
from typing import Final

import msgspec

from protocol import names
from protocol.models import Spent
from worker.sessions import keys

AGENT: Final = "openclaw"
"""The default agent, as a model; `openclaw:<agentId>` and `openclaw/<agentId>` name one."""

ID_BYTES: Final = 16

json: Final = msgspec.json.Encoder().encode


def new_id(prefix: str) -> str:
    """Make an id for an answer."""
    return prefix + os.urandom(ID_BYTES).hex()


def is_agent(model: str) -> bool:
    """Say whether a model is an agent of ours."""
    return agent_named(model) is not None


def agent_named(model: str) -> str | None:
    """Give the id of the agent that a model names; None for a model."""
    if model == AGENT:
        return names.DEFAULT_AGENT_ID
    head, colon, agent_id = model.replace("/", ":", 1).partition(":")
    return agent_id if head == AGENT and colon else None


def session_key(given: str | None) -> str | None:
    """Give the session key that came in the header, if it is one.

    Raises:
        GatewayError: INVALID_REQUEST.
    """
    return None if given is None else keys.checked(given, "sessionKey")


def prompt_tokens(spent: Spent) -> int:
    """Give all that went in, from caches too."""
    return spent.input + spent.cache_read + spent.cache_write


def completion_tokens(spent: Spent) -> int:
    """Give all that came out, thinking included."""
    return spent.output + spent.reasoning


def prompt_details(spent: Spent) -> dict[str, int]:
    """Give what caches had to do with what went in."""
    return {"cached_tokens": spent.cache_read, "cache_write_tokens": spent.cache_write}

"""The catalogue of methods. Importing this package declares them all."""

from typing import Final

from protocol.methods import (
    agent,
    channels,
    chat,
    config,
    events,
    health,
    models,
    models_keys,
    openai,
    rpc,
    sandbox,
    sandbox_files,
    sandbox_state,
    session_changes,
    sessions,
    tenants,
    terminal,
    usage,
)
from protocol.methods.registry import (
    ALL_SCOPES,
    METHODS,
    Method,
    Params,
    Result,
    Scope,
    answered_by,
)

WAITING: Final = frozenset({agent.WAIT.name, events.POLL.name, terminal.ATTACH.name})
"""Methods that may do nothing but wait: such a call ends with the token that it was made with."""

SPENDING: Final = frozenset(name for name, method in METHODS.items() if method.spends)
"""Methods that may call a model on the tenant's budget: refused while a quota is used up."""

__all__ = [
    "ALL_SCOPES",
    "METHODS",
    "SPENDING",
    "WAITING",
    "Method",
    "Params",
    "Result",
    "Scope",
    "agent",
    "answered_by",
    "channels",
    "chat",
    "config",
    "events",
    "health",
    "models",
    "models_keys",
    "openai",
    "rpc",
    "sandbox",
    "sandbox_files",
    "sandbox_state",
    "session_changes",
    "sessions",
    "tenants",
    "terminal",
    "usage",
]

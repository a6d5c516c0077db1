"""The catalogue of methods. Importing this package declares them all."""

from protocol.methods import (
    agent,
    channels,
    chat,
    config,
    events,
    health,
    rpc,
    session_changes,
    sessions,
    tenants,
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

__all__ = [
    "ALL_SCOPES",
    "METHODS",
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
    "rpc",
    "session_changes",
    "sessions",
    "tenants",
]

"""The catalogue of methods. Importing this package declares them all."""

from protocol.methods import agent, channels, chat, events, health, rpc, sessions
from protocol.methods.registry import ALL_SCOPES, METHODS, Method, Params, Result, Scope

__all__ = [
    "ALL_SCOPES",
    "METHODS",
    "Method",
    "Params",
    "Result",
    "Scope",
    "agent",
    "channels",
    "chat",
    "events",
    "health",
    "rpc",
    "sessions",
]

"""Secrets in a tree of the configuration: taken out of what is read, kept in what is written."""

from collections.abc import Callable
from typing import Any

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.config import REDACTED, SECRETS


def redacted(tree: Any) -> Any:
    """Give a copy of a tree with `REDACTED` for every secret."""
    return _changed(tree, lambda _path, _value: REDACTED)


def restored(tree: Any, before: Any) -> Any:
    """Give a copy of a tree in which every `REDACTED` is the secret that stood there before.

    Raises:
        GatewayError: INVALID_REQUEST: none stood there.
    """

    def restore(path: tuple[str, ...], value: Any) -> Any:
        if value != REDACTED:
            return value
        found = before
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, str):
            where = ".".join(path)
            message = f"{where}: {REDACTED} stands for a secret that is not there; write the secret"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field=f"raw.{where}")
        return found

    return _changed(tree, restore)


def _changed(tree: Any, change: Callable[[tuple[str, ...], Any], Any]) -> Any:
    for pattern in SECRETS:
        tree = _walk(tree, pattern, (), change)
    return tree


def _walk(
    node: Any,
    pattern: tuple[str, ...],
    path: tuple[str, ...],
    change: Callable[[tuple[str, ...], Any], Any],
) -> Any:
    if not pattern:
        return change(path, node)
    if not isinstance(node, dict):
        return node
    first, *rest = pattern
    return {
        name: _walk(value, tuple(rest), (*path, str(name)), change)
        if first in ("*", name)
        else value
        for name, value in node.items()
    }

"""Configuration texts, YAML or JSON, into plain trees; and back. Bound their size outside.

YAML is imported when there is some: most configurations are empty or JSON, and most commands short.
Who must not import late imports `protocol.strict_yaml` before.
"""

from typing import Any

import msgspec


class DocumentError(Exception):
    """The text is neither YAML nor JSON, or uses what is not taken here; the message says where."""


def parse(text: bytes) -> Any:
    """Give the tree that a text holds; an empty text holds an empty object.

    Raises:
        DocumentError: see there.
    """
    if not text.strip():
        return {}
    # JSON on its own first: YAML 1.1 takes no tabs between its tokens and no surrogate pairs.
    try:
        tree = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        from protocol import strict_yaml  # noqa: PLC0415

        try:
            tree = strict_yaml.parse(text)
        except (ValueError, RecursionError) as error:
            raise DocumentError(str(error)) from error
    return {} if tree is None else tree


def render(tree: Any) -> str:
    """Give a tree of plain values as YAML."""
    if not tree:
        return ""
    from protocol import strict_yaml  # noqa: PLC0415

    return strict_yaml.render(tree)

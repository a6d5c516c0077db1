"""Configuration texts, YAML or JSON, into plain trees; and back. Bound their size outside."""

from typing import Any, Final

import msgspec
import yaml

# What PyYAML lets escape for a date that is none, a number of 5000 digits, `!!bool perhaps`, ….
_SCALAR_ERRORS: Final = (ValueError, LookupError, AttributeError, TypeError)


class DocumentError(Exception):
    """The text is neither YAML nor JSON, or uses what is not taken here; the message says where."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what makes a small file large or hides a line of it."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See `yaml.composer.Composer`; ten nested merges of aliases would fill the memory."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not taken here", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        """See `yaml.constructor.SafeConstructor`; of two equal keys one would be lost."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is there twice", node.start_mark
            )
        return mapping


def parse(text: bytes) -> Any:
    """Give the tree that a text holds; an empty text holds an empty object.

    Raises:
        DocumentError: see there.
    """
    # JSON on its own first: YAML 1.1 takes no tabs between its tokens and no surrogate pairs.
    try:
        tree = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            tree = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
        except (yaml.YAMLError, RecursionError, *_SCALAR_ERRORS) as error:
            raise DocumentError(str(error)) from error
    return {} if tree is None else tree


def render(tree: Any) -> str:
    """Give a tree of plain values as YAML."""
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True) if tree else ""
    return text

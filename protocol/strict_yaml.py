"""YAML without what makes a small file large or hides a line of it."""

from typing import Any, Final

import yaml

# What PyYAML lets escape for a date that is none, a number of 5000 digits, `!!bool perhaps`, ….
_SCALAR_ERRORS: Final = (ValueError, LookupError, AttributeError, TypeError)

# These repeat the name of a tag or an anchor.
_NAMING_ERRORS: Final = (yaml.constructor.ConstructorError, yaml.composer.ComposerError)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, made stricter."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See `yaml.composer.Composer`; ten nested merges of aliases would fill the memory."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not taken here", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        """See `yaml.constructor.BaseConstructor`; what escapes it has no place and names values."""
        try:
            return super().construct_object(node, deep)
        except _SCALAR_ERRORS:
            problem = "a value is not what its form or tag says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        """See `yaml.constructor.SafeConstructor`; of two equal keys one would be lost."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is there twice", node.start_mark
            )
        return mapping


def parse(text: bytes) -> Any:
    """Read one document.

    Raises:
        ValueError: it is no YAML, or uses what is not taken here; no text is repeated.
        RecursionError: it is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        raise ValueError(_where(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _where(error: yaml.MarkedYAMLError) -> str:
    """Say what is wrong and where, without the lines around: a secret may be in them."""
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    if isinstance(error, _NAMING_ERRORS) or "tag" in problem:
        problem = problem.partition(" '")[0]
    mark = error.problem_mark
    return problem if mark is None else f"{problem}, line {mark.line + 1}, column {mark.column + 1}"


def render(tree: Any) -> str:
    """Write a tree of plain values."""
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text

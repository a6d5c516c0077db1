"""Prints the page of all methods, made from their declarations.

With `--write` it becomes `docs/methods.md`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from protocol.methods import METHODS, Method

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = """# Methods

Made from the declarations in `protocol/methods/` by `scripts/methods_page.py`. The same as an
OpenRPC document, with every bound and the shapes of the results: `rpc.discover`.

A parameter marked `!` is required; the others may be left out. *Idempotency key*: `idempotencyKey`,
or the header `Idempotency-Key`, makes a repeat within 24 hours do nothing and answer alike; the
same key with another request is a CONFLICT. *Streams*: with `Accept: text/event-stream` the text
comes as it is said.
"""


def page() -> str:
    """Give the page."""
    parts = [HEAD]
    domain = ""
    for name in sorted(METHODS):
        if name.split(".", 1)[0] != domain:
            domain = name.split(".", 1)[0]
            parts.append(f"## {domain}\n")
        parts.append(section(METHODS[name]))
    return "\n".join(parts)


def section(method: Method) -> str:
    """Give what the page says of one method."""
    facts = [f"scope {str(method.scope.name).lower()}"]
    if "idempotencyKey" in dict(properties(method.params)):
        facts.append("idempotency key")
    if method.spends:
        facts.append("spends")
    if method.streams:
        facts.append("streams")
    if method.answered_by != "worker":
        who = "answered by the supervisor"
        facts.append("for operators" if method.answered_by == "operator" else who)
    lines = [f"### `{method.name}`", "", f"{method.doc} *{' · '.join(facts)}*", ""]
    if (about := sentences(method.params)) not in ("", "None.", "See the module."):
        lines += [about, ""]
    lines.append(f"- params: {fields(method.params, marks=True) or 'none'}")
    if method.result != dict[str, Any]:
        lines.append(f"- result: {fields(method.result, marks=False)}")
        if about := sentences(method.result):
            lines += ["", about]
    return "\n".join([*lines, ""])


def sentences(kind: type) -> str:
    """Give what a struct says of itself, on one line."""
    return " ".join((kind.__doc__ or "").split())


def properties(kind: Any) -> list[tuple[str, bool]]:
    """Give the names of a struct's fields on the wire, and whether each is required."""
    return [(field.encode_name, field.required) for field in msgspec.structs.fields(kind)]


def fields(kind: Any, *, marks: bool) -> str:
    """Give the fields of a struct on one line."""
    return ", ".join(
        f"`{name}`{'!' if marks and required else ''}" for name, required in properties(kind)
    )


def main() -> None:
    """Print it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()

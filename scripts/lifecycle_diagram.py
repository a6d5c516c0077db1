"""Prints the life of a worker as a mermaid diagram, made from `supervisor.lifecycle.TABLE`.

With `--write FILE` the diagram replaces what stands between the markers in that file.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from supervisor.lifecycle import TABLE, Action, State

BEGIN, END = "<!-- lifecycle -->", "<!-- /lifecycle -->"


def diagram() -> str:
    """Give the diagram as a fenced block; every row of the table is one arrow."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.ABSENT.value}"]
    for (state, event), (target, action) in TABLE.items():
        does = "" if action is Action.NOTHING else f" / {action.value}"
        lines.append(f"    {state.value} --> {target.value}: {event.value}{does}")
    return "\n".join([*lines, "```"])


def with_diagram(text: str) -> str:
    """Give `text` with the diagram between its markers.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    if len(between.findall(text)) != 1:
        msg = f"no single {BEGIN} … {END}"
        raise ValueError(msg)
    return between.sub(lambda _: diagram() + "\n", text)


def main() -> None:
    """Print it, or put it into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", metavar="FILE", type=Path)
    target = parser.parse_args().write
    if target is None:
        print(diagram())
    else:
        target.write_text(with_diagram(target.read_text()))


if __name__ == "__main__":
    main()

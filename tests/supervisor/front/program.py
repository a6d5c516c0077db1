"""The real front with other limits, and with a confinement that is a trap for late imports.

Run as `python -m tests.supervisor.front.program <limits as JSON> <link> <channel>`; with the limit
`CLOCK_MS` the time of day stands still.
"""

import importlib
import json
import os
import sys

from protocol import limits, moments

EXIT_LATE_IMPORT = 70


def _trap(event: str, args: tuple[object, ...]) -> None:
    if event == "import":
        os.write(2, f"imported after confinement: {args[0]}\n".encode())
        os._exit(EXIT_LATE_IMPORT)


def _run() -> int:
    # Declarations are checked against the real bounds.
    importlib.import_module("protocol.methods")
    given = json.loads(sys.argv[1])
    at_ms = given.pop("CLOCK_MS", None)
    if at_ms is not None:
        moments.unix_ms = lambda: at_ms
    for name, value in given.items():
        if not hasattr(limits, name):
            raise AttributeError(name)
        setattr(limits, name, value)
    # Only now: some bounds are read when a module is imported.
    from supervisor.front.main import main

    return main(sys.argv[2:], lambda _spec, _link, _keep: sys.addaudithook(_trap))


if __name__ == "__main__":
    sys.exit(_run())

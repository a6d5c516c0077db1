"""The front with other limits: `front_program.py <limits as JSON> <link> <channel>`."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from protocol import limits


def set_constants(module: ModuleType, values: dict[str, float]) -> None:
    """Change constants of a module that has them.

    Raises:
        AttributeError: it has not.
    """
    for name, value in values.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__}.{name}")
        setattr(module, name, value)


if __name__ == "__main__":
    set_constants(limits, json.loads(sys.argv.pop(1)))
    runpy.run_module("supervisor.front", run_name="__main__", alter_sys=False)

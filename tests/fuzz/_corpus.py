"""What the fuzz programs share."""

from collections.abc import Iterable
from pathlib import Path


def plant(arguments: list[str], seeds: Iterable[bytes]) -> None:
    """Write seeds into the first corpus folder that libFuzzer's `arguments` name, if any."""
    folders = [Path(argument) for argument in arguments[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number:02}").write_bytes(seed)

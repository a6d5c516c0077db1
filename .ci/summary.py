"""Adds up the JUnit reports named as arguments and prints `N passed, N failed` as the last line.

A report that is missing, broken or without a test counts as one failure.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def outcomes(report: Path) -> tuple[int, int, int]:
    """Return how many tests of one report passed, failed and were skipped."""
    try:
        cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - our own pytest wrote it
    except (OSError, ET.ParseError):
        cases = []
    if not cases:
        return 0, 1, 0
    failed = sum(
        case.find("failure") is not None or case.find("error") is not None for case in cases
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped


def main() -> int:
    """Print the sum and return 0 when something ran and nothing failed."""
    passed, failed, skipped = (
        sum(column) for column in zip(*(outcomes(Path(name)) for name in sys.argv[1:]), strict=True)
    )
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Where tests may make cgroups, and whether they may."""

import functools
import os

from supervisor.caps import place

SETTING = os.environ.get("OPENCLAW_TEST_CGROUP", "auto")
"""`caps.cgroup` for tests; the machine with version 2 names the part that its user has."""


@functools.cache
def refusal() -> str | None:
    """Say why tests can make none; None if they can."""
    try:
        place.find(SETTING)
    except place.UnusableError as error:
        return str(error)
    return None

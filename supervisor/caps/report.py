"""Whether tenants can be capped here, as an operator hears it; and the gateway's hold on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from supervisor.caps import place

UNCAPPED = (
    "caps hold for single processes only: all of a tenant's together may use up memory, "
    "processors and process ids"
)


class Report(NamedTuple):
    """What there is: cgroups that the gateway is in, or why there are none.

    `claimed` is None where nothing was claimed, either because there is nothing (`refusal` says
    why) or because it was only looked for.
    """

    controllers: frozenset[str] = frozenset()
    version: int = 0
    refusal: str = ""
    claimed: place.Claimed | None = None

    def summary(self) -> str:
        """Say it in one line, for the banner."""
        if self.refusal:
            return f"caps: single processes only ({self.refusal})"
        missing = "" if "cpu" in self.controllers else ", not processors"
        return f"caps: cgroup v{self.version}{missing}"

    def notices(self) -> tuple[str, ...]:
        """Give what everybody who looks after the gateway has to know."""
        return (f"{UNCAPPED} ({self.refusal})",) if self.refusal else ()


def look(setting: str) -> Report:
    """See what there is, and change nothing.

    Args:
        setting: `caps.cgroup` of the configuration.
    """
    try:
        group = place.find(setting).group
    except place.UnusableError as error:
        return Report(refusal=str(error))
    return Report(group.controllers, group.VERSION)


@contextlib.contextmanager
def hold(setting: str, state_root: Path) -> Iterator[Report]:
    """Have this process in the gateway's cgroups meanwhile, where there are any.

    Args:
        setting: `caps.cgroup` of the configuration.
        state_root: Whose gateway it is; locked.

    Raises:
        UnusableError: the configuration names a cgroup, and it cannot be used.
    """
    try:
        base = place.find(setting)
        claimed = base.claim(place.name_of(state_root))
    except (place.UnusableError, OSError) as error:
        if setting not in ("auto", "none"):
            raise place.UnusableError(_said(error)) from error
        yield Report(refusal=_said(error))
        return
    try:
        yield Report(claimed.root.controllers, claimed.root.VERSION, claimed=claimed)
    finally:
        with contextlib.suppress(OSError):  # the next gateway sweeps it
            claimed.leave()


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return str(error)

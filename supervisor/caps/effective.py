"""What holds for a tenant: its own limits from the registry, else the gateway's from the file."""

from typing import Any, Final, NamedTuple

from protocol.control.shapes import EffectiveLimits, TenantLimits
from protocol.launching import Caps
from supervisor.config import CapsSection

UNLIMITED: Final = "unlimited"


class Effective(NamedTuple):
    """What a tenant may have at once; None is no bound."""

    caps: Caps
    disk_bytes: int | None
    disk_inodes: int | None


def effective(own: TenantLimits, section: CapsSection) -> Effective:
    """Give what holds.

    Args:
        own: The tenant's, from the registry.
        section: The gateway's, from `config.yaml`.
    """
    values = _values(own, section)
    disk_bytes, disk_inodes = values.pop("disk_bytes"), values.pop("disk_inodes")
    return Effective(Caps(**values), disk_bytes, disk_inodes)


def shown(own: TenantLimits, section: CapsSection) -> EffectiveLimits:
    """Give what holds, as an operator sees it."""
    values = _values(own, section)
    return EffectiveLimits(
        **{name: UNLIMITED if value is None else value for name, value in values.items()}
    )


def _values(own: TenantLimits, section: CapsSection) -> dict[str, Any]:
    found = {}
    for name in TenantLimits.__struct_fields__:
        value = getattr(own, name)
        if value is None:
            value = getattr(section, name)
        found[name] = None if value == UNLIMITED else value
    return found

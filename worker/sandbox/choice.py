"""Which sandbox it is: mode, image, network and limits, and who said so.

Each level decides over those before it: the gateway's default, the tenant's configuration, the
call, the tool that is used. What the operator allows bounds them all. A mode, an image or a network
that is not allowed is refused, whoever named it: there is never another one instead. Numbers are
lowered to what is allowed.
"""

from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import msgspec

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import NO_NETWORK, Ceilings, Mode, Profile, default_image
from protocol.methods.config import Overlay
from protocol.methods.sandbox import RunParams
from protocol.methods.sandbox_state import ExplainParams, Source

T = TypeVar("T")
N = TypeVar("N", int, float)

MODE_KEY: Final = "sandbox.mode"
IMAGE_KEY: Final = "sandbox.image"
NETWORK_KEY: Final = "sandbox.network"


class Said(NamedTuple, Generic[T]):
    """A value, and who said it."""

    value: T
    by: Source


class Asked(NamedTuple):
    """What a call asks for, and which tool it comes from; None is nothing in particular."""

    mode: Mode | None = None
    image: Profile | None = None
    network: Profile | None = None
    wall_seconds: float | None = None
    caps: launching.Caps = launching.Caps()
    tool: str | None = None

    @classmethod
    def of(cls, params: RunParams | ExplainParams, tool: str | None) -> Self:
        """Give what the parameters of a call ask for."""
        bounds = params.limits
        return cls(
            mode=params.sandbox,
            image=params.image,
            network=params.network,
            wall_seconds=None if params.timeout_ms is None else params.timeout_ms / 1000,
            caps=launching.Caps(
                memory_bytes=bounds.memory_bytes, cpus=bounds.cpus, pids=bounds.pids
            ),
            tool=tool,
        )


class Choice(NamedTuple):
    """What is started."""

    mode: Said[Mode]
    image: Said[Profile | None]
    network: Said[Profile | None]
    wall_seconds: Said[float]
    memory_bytes: Said[int | None]
    cpus: Said[float | None]
    pids: Said[int | None]

    @property
    def caps(self) -> launching.Caps:
        """The three caps together."""
        return launching.Caps(
            memory_bytes=self.memory_bytes.value, cpus=self.cpus.value, pids=self.pids.value
        )


def choose(ceilings: Ceilings, overlay: Overlay, asked: Asked) -> Choice:
    """Give what a call gets.

    Raises:
        GatewayError: INVALID_REQUEST: the call names what is not allowed. CONFLICT: the tenant's
            configuration does, with the key as `field`.
    """
    mode = _mode(ceilings, overlay, asked)
    seconds = asked.wall_seconds
    wanted: Said[float] = (
        Said(limits.SANDBOX_SECONDS_DEFAULT, "gateway")
        if seconds is None
        else Said(seconds, "call")
    )
    return Choice(
        mode=mode,
        image=_image(ceilings, overlay, asked, mode),
        network=_network(ceilings, overlay, asked),
        wall_seconds=min(
            wanted, Said(ceilings.wall_seconds, "operator"), key=lambda said: said.value
        ),
        memory_bytes=_cap(asked.caps.memory_bytes, ceilings.sandbox.memory_bytes),
        cpus=_cap(asked.caps.cpus, ceilings.sandbox.cpus),
        pids=_cap(asked.caps.pids, ceilings.sandbox.pids),
    )


def misfit(ceilings: Ceilings, overlay: Overlay) -> tuple[str, str] | None:
    """Give the key of a tenant's configuration that is not allowed, and why; None if all is."""
    tools = () if isinstance(overlay.tools, msgspec.UnsetType) else tuple(overlay.tools)
    modes = [(MODE_KEY, _of_tenant(overlay, "mode"))]
    modes += [(_tool_key(tool, "sandbox"), _of_tool(overlay, tool, "sandbox")) for tool in tools]
    for key, mode in modes:
        if mode is not None and mode not in ceilings.modes:
            return key, _not_allowed(mode, ceilings)
    image = _of_tenant(overlay, "image")
    if image is not None and image not in ceilings.images:
        return IMAGE_KEY, _no_image(image, ceilings)
    networks = [(NETWORK_KEY, _of_tenant(overlay, "network"))]
    networks += [(_tool_key(tool, "network"), _of_tool(overlay, tool, "network")) for tool in tools]
    for key, network in networks:
        if network is not None and network not in (NO_NETWORK, *ceilings.networks):
            return key, _no_network(network, ceilings)
    return None


# Who says something, and who has the last word.


def _of_tenant(overlay: Overlay, field: str) -> Any:
    """Give what the tenant's configuration says of all sandboxes; None if it says nothing."""
    return _given(overlay.sandbox, field)


def _of_tool(overlay: Overlay, tool: str | None, field: str) -> Any:
    """Give what it says of those that a tool asks for; None if it says nothing."""
    if tool is None or isinstance(overlay.tools, msgspec.UnsetType):
        return None
    return _given(overlay.tools.get(tool), field)


def _given(section: msgspec.Struct | msgspec.UnsetType | None, field: str) -> Any:
    if section is None or isinstance(section, msgspec.UnsetType):
        return None
    value = getattr(section, field)
    return None if isinstance(value, msgspec.UnsetType) else value


def _tool_key(tool: str | None, field: str) -> str:
    return f"tools.{tool}.{field}"


def _last_word(default: Said[T], *levels: tuple[T | None, Source, str]) -> tuple[Said[T], str]:
    """Give who decides, and the key of the configuration that says so, if one does.

    Args:
        default: The gateway's word.
        levels: What each later one says (None is nothing), who that is, and by which key.
    """
    said, key = default, ""
    for value, by, name in levels:
        if value is not None:
            said, key = Said(value, by), name
    return said, key


# Modes.


def _mode(ceilings: Ceilings, overlay: Overlay, asked: Asked) -> Said[Mode]:
    default: Said[Mode] = Said(ceilings.default_mode, "gateway")
    said, key = _last_word(
        default,
        (_of_tenant(overlay, "mode"), "tenant", MODE_KEY),
        (asked.mode, "call", ""),
        (_of_tool(overlay, asked.tool, "sandbox"), "tool", _tool_key(asked.tool, "sandbox")),
    )
    if said.value not in ceilings.modes:
        raise _refusal("sandbox", key, _not_allowed(said.value, ceilings))
    return said


def _not_allowed(mode: Mode, ceilings: Ceilings) -> str:
    return f"{mode} is not allowed; the operator allows: {', '.join(ceilings.modes)}"


# Images.


def _image(
    ceilings: Ceilings, overlay: Overlay, asked: Asked, mode: Said[Mode]
) -> Said[Profile | None]:
    """Give the image, for a mode that has one; without a word `base`, or the first there is."""
    if mode.value != "docker":
        if asked.image is not None:
            raise _refusal("image", "", f"a sandbox of the mode {mode.value} has no image")
        return Said(None, mode.by)
    known = ceilings.images
    default: Said[Profile | None] = Said(default_image(known), "gateway")
    said, key = _last_word(
        default,
        (_of_tenant(overlay, "image"), "tenant", IMAGE_KEY),
        (asked.image, "call", ""),
    )
    if said.value is None:
        why = "there is none; the operator names them in sandbox.docker.images"
        raise GatewayError(ErrorCode.UNAVAILABLE, f"image: {why}", field="image")
    if said.value not in known:
        raise _refusal("image", key, _no_image(said.value, ceilings))
    return said


def _no_image(image: Profile, ceilings: Ceilings) -> str:
    return f"there is no image {image}; there are: {', '.join(ceilings.images) or 'none'}"


# Networks.


def _network(ceilings: Ceilings, overlay: Overlay, asked: Asked) -> Said[Profile | None]:
    """Give the profile of hosts that can be reached; without a word none."""
    default: Said[Profile | None] = Said(None, "gateway")
    said, key = _last_word(
        default,
        (_of_tenant(overlay, "network"), "tenant", NETWORK_KEY),
        (asked.network, "call", ""),
        (_of_tool(overlay, asked.tool, "network"), "tool", _tool_key(asked.tool, "network")),
    )
    if said.value == NO_NETWORK:
        return Said(None, said.by)
    if said.value is not None and said.value not in ceilings.networks:
        raise _refusal("network", key, _no_network(said.value, ceilings))
    return said


def _no_network(network: Profile, ceilings: Ceilings) -> str:
    known = ", ".join((NO_NETWORK, *ceilings.networks))
    return f"there is no network {network}; there are: {known}"


# The rest.


def _cap(asked: N | None, ceiling: N | None) -> Said[N | None]:
    if asked is None:
        return Said(ceiling, "gateway")
    if ceiling is not None and asked > ceiling:
        return Said(ceiling, "operator")
    return Said(asked, "call")


def _refusal(field: str, key: str, why: str) -> GatewayError:
    """Give the refusal of a call's parameter, or of a key of the tenant's configuration."""
    if not key:
        return GatewayError(ErrorCode.INVALID_REQUEST, f"{field}: {why}", field=field)
    message = f"{key} in the tenant's configuration: {why}"
    return GatewayError(ErrorCode.CONFLICT, message, field=key)

"""The settings as egress reads them, and what it finds in them."""

from typing import Final

import msgspec

from protocol import egress
from protocol.egress import Settings
from protocol.errors import ErrorCode, GatewayError

BUILTIN: Final = egress.Provider(type="builtin", base_url="")
ECHO: Final = "builtin/echo"
_ECHO_MODEL: Final = egress.Model(provider="builtin", upstream_model=ECHO)


def read(descriptor: int) -> Settings:
    """Give the settings in a file in memory; the descriptor is closed.

    Raises:
        msgspec.DecodeError: it holds none.
    """
    with open(descriptor, "rb") as file:
        file.seek(0)
        return msgspec.msgpack.decode(file.read(), type=Settings)


def models_of(settings: Settings) -> dict[str, egress.Model]:
    """Give all models by the names that tenants use."""
    return {ECHO: _ECHO_MODEL, **settings.models}


def model_of(settings: Settings, name: str) -> egress.Model:
    """Give a model.

    Raises:
        GatewayError: NOT_FOUND, with those there are.
    """
    found = _ECHO_MODEL if name == ECHO else settings.models.get(name)
    if found is None:
        known = ", ".join(sorted(models_of(settings)))[:512]
        message = f"model: there is no model {name}; there are: {known}"
        raise GatewayError(ErrorCode.NOT_FOUND, message, field="model")
    return found


def provider_of(settings: Settings, model: egress.Model) -> egress.Provider:
    """Give who is asked for a model; both are checked when the configuration is read."""
    return BUILTIN if model.provider == "builtin" else settings.providers[model.provider]


def is_remote(settings: Settings) -> bool:
    """Say whether anything could go out to a provider."""
    return bool(settings.providers or settings.fetch_hosts)

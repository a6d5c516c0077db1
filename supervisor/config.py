"""`config.yaml`: what the operator decides. Every key is optional; an unknown one is an error."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

CONFIG_BYTES_MAX = 1024 * 1024

HostName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9.:\[\]-]{1,253}$")]


class ConfigError(Exception):
    """`config.yaml` cannot be used; the message names the key and what is wrong with it."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class GatewaySection(_Section, frozen=True, kw_only=True):
    """Where the gateway listens, and by which names it may be called beside the loopback ones."""

    host: Literal["127.0.0.1", "::1"] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 18789
    allowed_hosts: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=64)] = ()


class IsolationSection(_Section, frozen=True, kw_only=True):
    """How tenants are kept apart.

    `required` refuses to start below the minimum. `none` starts anyway, with whatever steps of the
    jail hold here, and says so everywhere. Tenant uids (used by root only) come from the range.
    """

    mode: Literal["required", "none"] = "required"
    uid_first: Annotated[int, msgspec.Meta(ge=65536, lt=2**31)] = 1_900_000_000
    uid_count: Annotated[int, msgspec.Meta(ge=1024, le=2**30)] = 100_000_000


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    gateway: GatewaySection = GatewaySection()
    isolation: IsolationSection = IsolationSection()


def load(path: Path) -> Config:
    """Read the file; one that is not there means all defaults.

    Raises:
        ConfigError: it cannot be read, is no YAML, or a key is unknown or of a wrong type.
    """
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(msg) from error
    if len(text) > CONFIG_BYTES_MAX:
        msg = f"{path} is over {CONFIG_BYTES_MAX} bytes"
        raise ConfigError(msg)
    try:
        tree = yaml.safe_load(text)
        config = msgspec.convert({} if tree is None else tree, Config)
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error
    isolation = config.isolation
    if isolation.uid_first + isolation.uid_count > 2**31:
        msg = f"{path}: isolation: uid_first + uid_count goes past 2147483648"
        raise ConfigError(msg)
    return config

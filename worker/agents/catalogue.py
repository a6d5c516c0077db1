"""The tools and model providers there are: one for each module of their folders.

They are found and imported when this module is, which is before the jail is closed.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final, NamedTuple

from worker.agents import providers, tools
from worker.agents.model import ModelProvider
from worker.agents.tool import Tool

DEFAULT_MODEL: Final = "builtin/echo"


class Catalogue(NamedTuple):
    """What agents can use. `model` is what they use unless told otherwise: `provider/model`."""

    providers: Mapping[str, ModelProvider]
    tools: Mapping[str, Tool]
    model: str

    @property
    def provider(self) -> ModelProvider:
        """The provider of `model`."""
        return self.providers[self.model.split("/", 1)[0]]


def _each(package: ModuleType, attribute: str) -> Iterator[Any]:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield getattr(importlib.import_module(module.name), attribute)


def _named(things: Iterator[Any]) -> Mapping[str, Any]:
    named: dict[str, Any] = {}
    for thing in things:
        if thing.name in named:
            raise ValueError(f"two are called {thing.name!r}")
        named[thing.name] = thing
    return MappingProxyType(named)


CATALOGUE: Final = Catalogue(
    _named(_each(providers, "PROVIDER")), _named(_each(tools, "TOOL")), DEFAULT_MODEL
)

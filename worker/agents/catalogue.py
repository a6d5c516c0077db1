"""What agents use: the tools there are, one for each module of their folder, and who has models.

The tools are found and imported when this module is, which is before the jail is closed.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UnsetType

from protocol.methods.chat import TextPart
from protocol.methods.config import AgentSection
from protocol.spawn import AgentSettings
from worker.agents import tools
from worker.agents.model import ModelProvider, PromptMessage, RemoteModels
from worker.agents.tool import FETCH, Tool

DEFAULT_MODEL: Final = "builtin/echo"
BOUNDS: Final = ("max_rounds", "max_tokens", "max_tool_calls", "max_seconds")


class Catalogue(NamedTuple):
    """What agents can use.

    `local` providers are asked for the models that begin with their name and a slash, `remote` for
    all others.
    """

    tools: Mapping[str, Tool]
    model: str = DEFAULT_MODEL
    remote: RemoteModels | None = None
    local: Mapping[str, ModelProvider] = MappingProxyType({})

    def with_local(self, *providers: ModelProvider) -> "Catalogue":
        """Give the same with providers that are asked here."""
        return self._replace(local={provider.name: provider for provider in providers})

    def configured(self, settings: AgentSettings, agent: AgentSection | UnsetType) -> "Catalogue":
        """Give what agents can use, by what the operator and then the tenant has decided."""
        model, tools = settings.model, self.tools
        if not settings.fetches:
            tools = {name: tool for name, tool in tools.items() if name != FETCH}
        if isinstance(agent, UnsetType):
            return self._replace(tools=tools, model=model)
        if not isinstance(agent.model, UnsetType):
            model = agent.model
        if not isinstance(agent.tools, UnsetType) and not isinstance(agent.tools.allow, UnsetType):
            tools = {name: tools[name] for name in agent.tools.allow if name in tools}
        return self._replace(tools=tools, model=model)

    @property
    def provider(self) -> ModelProvider:
        """Who has `model`."""
        found = self.local.get(self.model.split("/", 1)[0]) or self.remote
        assert found is not None
        return found

    async def window(self) -> int | None:
        """Give how many tokens `model` can be told and say together, where that is known.

        Raises:
            GatewayError: nobody can be asked.
        """
        if self.remote is None or self.provider is not self.remote:
            return None
        return await self.remote.window(self.model)


def bounded(settings: AgentSettings, agent: AgentSection | UnsetType) -> AgentSettings:
    """Give what a turn may use: what the operator says, lowered by the tenant."""
    if isinstance(agent, UnsetType):
        return settings
    lower = {
        name: min(wanted, getattr(settings, name))
        for name in BOUNDS
        if not isinstance(wanted := getattr(agent, name), UnsetType)
    }
    return msgspec.structs.replace(settings, **lower)


def system_prompt(
    agent: AgentSection | UnsetType, instructions: str | None = None
) -> list[PromptMessage]:
    """Give what the model is told before anything else.

    Args:
        agent: The tenant's configuration.
        instructions: Those of one turn.
    """
    told = []
    if not isinstance(agent, UnsetType) and not isinstance(agent.system_prompt, UnsetType):
        told.append(agent.system_prompt)
    if instructions is not None:
        told.append(instructions)
    return [PromptMessage("system", (TextPart(text=text),)) for text in told]


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


CATALOGUE: Final = Catalogue(_named(_each(tools, "TOOL")))

"""What goes out: made when the first provider is configured, since aiohttp is 20 MB and 0.2 s."""

from typing import TYPE_CHECKING, Final

from protocol.egress import Settings
from supervisor.egress.providers.echo import Echo
from supervisor.egress.settings import is_remote
from supervisor.egress.upstream import Upstream

if TYPE_CHECKING:
    from supervisor.egress.client import Client
    from supervisor.egress.fetch import Fetcher


def prepare(settings: Settings) -> None:
    """Import what goes out, if anything does: before egress is confined it is quicker."""
    if is_remote(settings):
        from supervisor.egress import fetch  # noqa: F401, PLC0415
        from supervisor.egress.providers import anthropic, openai  # noqa: F401, PLC0415


class Traffic:
    """The bytes of bodies that were read, also where nothing comes of them."""

    def __init__(self) -> None:
        self.moved = 0


class Outward:
    """All that asks somebody outside. Belongs to the running event loop."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self.fetcher: Fetcher | None = None
        """None while there is nothing to ask."""
        self._upstreams: Final[dict[str, Upstream]] = {"builtin": Echo()}

    def configured(self, settings: Settings) -> dict[str, Upstream]:
        """Take what is in force from here on; give what speaks each kind of provider's API.

        Calls that have begun go on as they began.
        """
        if self._client is not None:
            self._client.configure(settings)
            if self.fetcher is not None:
                self.fetcher.configure(settings)
        elif is_remote(settings):
            from supervisor.egress.client import Client  # noqa: PLC0415
            from supervisor.egress.fetch import Fetcher  # noqa: PLC0415
            from supervisor.egress.providers.anthropic import Anthropic  # noqa: PLC0415
            from supervisor.egress.providers.openai import OpenAI  # noqa: PLC0415

            self._client = client = Client(settings)
            self.fetcher = Fetcher(client, settings)
            self._upstreams.update(openai=OpenAI(client), anthropic=Anthropic(client))
        return self._upstreams

    async def close(self) -> None:
        """End every connection."""
        if self._client is not None:
            await self._client.close()

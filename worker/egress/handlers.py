"""The handler of `models.list`."""

from protocol.methods import models
from worker.dispatch import CallContext, handles


@handles(models.LIST)
async def list_models(call: CallContext, _params: models.ListParams) -> models.ListResult:
    """Give what egress knows, and which of it this tenant's agents use."""
    services = call.services
    agent = (await services.overlay.current()).overlay.agent
    return models.ListResult(
        default=services.turns.catalogue(agent).model,
        models=[
            models.Model(
                id=each.id,
                name=each.id,
                provider=each.provider,
                context_window=each.context_window,
                input=list(each.input),
                embeds=each.embeds,
                own_key=each.own_key,
            )
            for each in await services.egress.models()
        ],
    )

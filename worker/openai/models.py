"""`openai.models` and `openai.model`: what can be named as `model`."""

from typing import Final

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import openai
from protocol.methods.openai import MODEL, MODELS
from worker.dispatch import CallContext, handles
from worker.openai import shapes

# OpenAI's clients want to know when a model was made; nobody tells us.
CREATED: Final = 0


@handles(MODELS)
async def list_models(call: CallContext, _params: openai.ModelsParams) -> openai.ModelList:
    """List the operator's models, and the agent."""
    return openai.ModelList(data=await _all(call))


@handles(MODEL)
async def get_model(call: CallContext, params: openai.ModelParams) -> openai.Model:
    """Give one of them."""
    for model in await _all(call):
        if model.id == params.model:
            return model
    raise GatewayError(
        ErrorCode.NOT_FOUND, "no such model; GET /v1/models lists them", field="model"
    )


async def _all(call: CallContext) -> tuple[openai.Model, ...]:
    shown = await call.services.egress.models()
    agent = openai.Model(id=shapes.AGENT, created=CREATED, owned_by=shapes.AGENT)
    models = (
        openai.Model(id=model.id, created=CREATED, owned_by=model.provider) for model in shown
    )
    return (agent, *models)

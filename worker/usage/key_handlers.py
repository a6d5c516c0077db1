"""The handlers of `models.keys.*`. A key goes through here and is kept nowhere."""

from typing import Final

import msgspec

from protocol.egress import KnownKey, OwnKey
from protocol.methods import models_keys
from worker.dispatch import CallContext, handles

_known_decoder: Final = msgspec.json.Decoder(list[KnownKey])


@handles(models_keys.SET)
async def replace(call: CallContext, asked: models_keys.SetParams) -> models_keys.SetResult:
    """Have a key sealed."""
    await call.services.egress.call("key.set", OwnKey(provider=asked.provider, key=asked.api_key))
    return models_keys.SetResult(ok=True, provider=asked.provider)


@handles(models_keys.LIST)
async def show(call: CallContext, _asked: models_keys.ListParams) -> models_keys.ListResult:
    """Say which there are."""
    known = _known_decoder.decode(await call.services.egress.call("keys", {}))
    return models_keys.ListResult(keys=known)


@handles(models_keys.DELETE)
async def forget(call: CallContext, asked: models_keys.DeleteParams) -> models_keys.DeleteResult:
    """Have one forgotten."""
    body = await call.services.egress.call("key.set", OwnKey(provider=asked.provider, key=None))
    return models_keys.DeleteResult(
        deleted=msgspec.json.decode(body, type=bool), provider=asked.provider
    )

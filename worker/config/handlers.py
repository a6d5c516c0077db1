"""The handlers of `config.*`."""

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from protocol import documents, params
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import config
from protocol.methods.config import Overlay
from protocol.models import ModelId
from worker.agents.catalogue import Catalogue
from worker.config.overlay import PATH, Loaded, overlay_of
from worker.config.secrets import redacted, restored
from worker.dispatch import CallContext, handles
from worker.sandbox.choice import misfit
from worker.services import Services

_SCHEMA: Final = msgspec.json.schema(Overlay)
_HINTS: Final = {".".join(path): {"sensitive": True} for path in config.SECRETS}


@handles(config.GET)
async def get(call: CallContext, _params: config.GetParams) -> config.GetResult:
    """Give the configuration without its secrets."""
    loaded = await call.services.overlay.current()
    tree = redacted(loaded.tree)
    return config.GetResult(
        path=PATH,
        exists=loaded.exists,
        valid=not loaded.issues,
        hash=loaded.hash,
        raw=documents.render(tree),
        config=tree,
        issues=list(loaded.issues),
    )


@handles(config.SET)
async def replace(call: CallContext, wanted: config.SetParams) -> config.WriteResult:
    """Write the whole configuration."""
    written = _parsed(wanted.raw)
    check = await _check_of(call, written)

    def change(before: Loaded) -> Overlay:
        return check(restored(written, before.tree))

    return _written(await call.services.overlay.write(change, wanted.base_hash))


@handles(config.PATCH)
async def patch(call: CallContext, wanted: config.PatchParams) -> config.WriteResult:
    """Change keys of the configuration."""
    written = _parsed(wanted.raw)
    check = await _check_of(call, written)

    def change(before: Loaded) -> Overlay:
        if before.issues:
            message = "the present configuration cannot be used; write a whole one (config.set)"
            raise GatewayError(ErrorCode.CONFLICT, message, issues=list(before.issues))
        return check(restored(_merged(before.tree, written), before.tree))

    return _written(await call.services.overlay.write(change, wanted.base_hash))


@handles(config.SCHEMA)
def schema(_call: CallContext, _params: config.SchemaParams) -> config.SchemaResult:
    """Give the schema of the overlay."""
    return config.SchemaResult(schema=_SCHEMA, ui_hints=_HINTS)


def _written(loaded: Loaded) -> config.WriteResult:
    return config.WriteResult(ok=True, path=PATH, hash=loaded.hash, config=redacted(loaded.tree))


def _parsed(raw: str) -> Any:
    try:
        tree = documents.parse(raw.encode("utf-8", "surrogatepass"))
    except documents.DocumentError as error:
        why = params.printable(str(error), params.REASON_CHARS_SHOWN)
        message = f"raw is neither YAML nor JSON: {why}"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="raw") from None
    if not isinstance(tree, dict):
        message = "raw must hold an object"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="raw")
    return tree


def _merged(target: Any, patch_: Any) -> Any:
    """Apply a JSON merge patch: RFC 7396, section 2."""
    if not isinstance(patch_, dict):
        return patch_
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch_.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


async def _check_of(call: CallContext, written: Any) -> Callable[[Any], Overlay]:
    """Give what makes an overlay of a tree, if what it names is there and allowed.

    Whether its model is, is looked at where `written` names one.

    Before a launcher was made known it is not known what the operator allows of sandboxes; then
    whoever starts one is told.
    """
    services = call.services
    models = await _models(services, written)

    def check(tree: Any) -> Overlay:
        """Raises GatewayError: INVALID_REQUEST, naming the key."""
        overlay = overlay_of(tree)
        _check_agent(overlay, services.catalogue, models)
        _check_tools(overlay, services.catalogue)
        allowed = services.launcher.known_ceilings
        if allowed is not None and (found := misfit(allowed, overlay)) is not None:
            _refuse(*found)
        return overlay

    return check


def _check_tools(overlay: Overlay, catalogue: Catalogue) -> None:
    if overlay.tools is msgspec.UNSET:
        return
    for name in overlay.tools:
        if name not in catalogue.tools:
            _refuse("tools", f"no such tool: {name}; there are: {', '.join(catalogue.tools)}")


async def _models(services: Services, tree: Any) -> Collection[str] | None:
    """Give the models that the operator allows, if the tree names one; egress is asked."""
    agent = tree.get("agent") if isinstance(tree, dict) else None
    model = agent.get("model") if isinstance(agent, dict) else None
    try:
        named = msgspec.convert(model, ModelId)
    except msgspec.ValidationError:
        return None  # it is refused for that
    if named.split("/", 1)[0] in services.catalogue.local:
        return None
    return [each.id for each in await services.egress.models()]


def _check_agent(overlay: Overlay, catalogue: Catalogue, models: Collection[str] | None) -> None:
    agent = overlay.agent
    if agent is msgspec.UNSET:
        return
    if models is not None and agent.model is not msgspec.UNSET and agent.model not in models:
        _refuse("agent.model", f"no such model; there are: {', '.join(models)[:512]}")
    if agent.tools is not msgspec.UNSET and agent.tools.allow is not msgspec.UNSET:
        unknown = [name for name in agent.tools.allow if name not in catalogue.tools]
        if unknown:
            _refuse("agent.tools.allow", f"no such tool: {unknown[0]}")


def _refuse(key: str, why: str) -> None:
    raise GatewayError(ErrorCode.INVALID_REQUEST, f"{key}: {why}", field=f"raw.{key}")

"""Methods that are operators' alone: JSON-RPC 2.0 on `POST /rpc` with the admin key as bearer.

The same as the control plane does, in the words of the methods; no batches.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from protocol import jsonrpc, params
from protocol.control.shapes import UpdateTenant
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import METHODS, answered_by, tenants
from protocol.spawn import ControlResponse
from supervisor.control.actions import TenantActions
from supervisor.control.handlers import ACTOR

PATH: Final = "/rpc"


class OperatorMethods:
    """Answers them, for who has presented the admin key.

    Args:
        actions: What is asked for.

    Raises:
        LookupError: the handlers are not those of the declared methods: a mistake in our own code.
    """

    def __init__(self, actions: TenantActions) -> None:
        self._actions: Final = actions
        self._handlers: Final[dict[str, Callable[[Any], Awaitable[msgspec.Struct]]]] = {
            tenants.QUOTA_UPDATE.name: self._update_quota
        }
        self._decoders: Final = {
            name: msgspec.json.Decoder(METHODS[name].params) for name in self._handlers
        }
        if self._handlers.keys() != answered_by("operator"):
            raise LookupError("the handlers are not those of the declared methods")

    async def answer(self, body: bytes) -> ControlResponse:
        """Answer one call; a refusal is an answer too, and a notification has none."""
        request_id: jsonrpc.RequestId | msgspec.UnsetType = None
        try:
            call = jsonrpc.decode_request(body)
            request_id = call.id
            result = await self._run(call)
        except GatewayError as error:
            return refusal(error, request_id)
        if isinstance(request_id, msgspec.UnsetType):
            return ControlResponse(status=204, body=msgspec.Raw(b"null"))
        return ControlResponse(
            status=200, body=msgspec.Raw(jsonrpc.success(request_id, msgspec.json.encode(result)))
        )

    async def _run(self, call: jsonrpc.Request) -> msgspec.Struct:
        handler = self._handlers.get(call.method)
        if handler is None:
            msg = "no such method for operators; a tenant's take the tenant's token"
            raise GatewayError(ErrorCode.METHOD_NOT_FOUND, msg)
        asked = params.decode(call.method, self._decoders[call.method], bytes(call.params))
        return await handler(asked)

    async def _update_quota(self, asked: tenants.QuotaUpdateParams) -> tenants.QuotaUpdateResult:
        change = UpdateTenant(quota=asked.quota)
        view = await self._actions.update_tenant(asked.tenant_id, change, actor=ACTOR)
        return tenants.QuotaUpdateResult(tenant_id=asked.tenant_id, updated=True, quota=view.quota)


def refusal(
    error: GatewayError, request_id: jsonrpc.RequestId | msgspec.UnsetType = None
) -> ControlResponse:
    """Give the refusal of a call; of a notification only the status is seen."""
    known = None if isinstance(request_id, msgspec.UnsetType) else request_id
    return ControlResponse(
        status=error.code.http_status, body=msgspec.Raw(jsonrpc.refusal(known, error))
    )

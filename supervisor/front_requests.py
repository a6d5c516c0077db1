"""What the front asks of the supervisor."""

from typing import Final, TypeVar

import msgspec

from protocol import aio, frames
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import ControlRequest, TenantRequest, WakeParams
from supervisor.control.plane import ControlPlane
from supervisor.tenant_requests import TenantRequests
from supervisor.workers import Workers

T = TypeVar("T")


class FrontRequests:
    """Answers the front's calls.

    Args:
        workers: Whom it may wake.
        control: What operators ask.
        tenant_requests: What tenants ask that their workers cannot answer.
    """

    def __init__(
        self, workers: Workers, control: ControlPlane, tenant_requests: TenantRequests
    ) -> None:
        self._workers: Final = workers
        self._control: Final = control
        self._tenant_requests: Final = tenant_requests

    async def answer(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """Answer one call, unless the front is gone by then."""
        try:
            body = await self._answered(call)
        except GatewayError as error:
            if not end.closed:
                end.fail(call.id, error)
            return
        if not end.closed:
            end.link.result(call.id, body)
            end.flush()

    async def _answered(self, call: frames.Call) -> bytes:
        match call.method:
            case "worker.wake":
                await self._workers.wake(_decode(call.params, WakeParams).tenant)
                return b"{}"
            case "control.request":
                request = _decode(call.params, ControlRequest)
                return msgspec.json.encode(await self._control.answer(request))
            case "tenant.request":
                return await self._tenant_requests.answer(_decode(call.params, TenantRequest))
            case _:
                raise GatewayError(ErrorCode.METHOD_NOT_FOUND, "the supervisor has no such method")


def _decode(params: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(params, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(ErrorCode.INVALID_REQUEST, str(error)) from error

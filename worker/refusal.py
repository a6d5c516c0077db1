"""What a client is told of an exception: never more than the error table and a reference."""

import uuid

import apsw

from protocol.errors import ErrorCode, GatewayError
from worker import log, memory
from worker.store.errors import storage_error


def of(error: BaseException, **where: str) -> GatewayError:
    """Give the answer for an exception, and log what the client is not told.

    There is none for the want of memory: the process ends.

    Args:
        error: What was raised.
        where: For the log: the method, the turn.
    """
    if isinstance(error, GatewayError):
        return error
    memory.end_if_exhausted(error)
    if isinstance(error, apsw.Error):
        refusal = storage_error(error)
        if refusal is not None:
            log.failure("storage refused", error, **where)
            return refusal
    reference = uuid.uuid4().hex
    log.failure("internal error", error, reference=reference, **where)
    return GatewayError(ErrorCode.INTERNAL, "internal error", reference=reference)

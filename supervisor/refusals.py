"""How a disk that fails becomes an answer."""

import contextlib
from collections.abc import Iterator

import apsw

from protocol.errors import ErrorCode, GatewayError
from supervisor.audit import AuditError


@contextlib.contextmanager
def disk_refusals() -> Iterator[None]:
    """Turn a disk that is full or broken into an answer: it must not end the gateway.

    Raises:
        GatewayError: UNAVAILABLE.
    """
    try:
        yield
    except OSError as error:
        msg = f"the disk refuses {error.filename or 'a write'}: {error.strerror or error}"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error
    except (apsw.Error, AuditError) as error:
        msg = f"the disk refuses registry or audit: {error}"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error

"""Which sandbox a run gets, of those that its gateway allows."""

from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Ceilings, Mode


def mode(ceilings: Ceilings, asked: Mode | None) -> Mode:
    """Give the mode of a run.

    Args:
        ceilings: What the operator allows.
        asked: By the call.

    Raises:
        GatewayError: INVALID_REQUEST, what was asked for is not allowed.
    """
    chosen = ceilings.default_mode if asked is None else asked
    if chosen not in ceilings.modes:
        message = f"sandbox: {chosen} is not allowed; {', '.join(ceilings.modes)} is"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="sandbox")
    return chosen

"""What a token can allow. The wider scopes hold the narrower: ADMIN is all, WRITE also reads."""

import enum
from typing import Final

from protocol.errors import ErrorCode, GatewayError


class Scope(enum.IntFlag):
    """What a token allows inside its tenant. Granted by look-up of the token, never by a field."""

    READ = 1
    WRITE = 2
    ADMIN = 4


ALL_SCOPES: Final = Scope.READ | Scope.WRITE | Scope.ADMIN


def allows(granted: int, needed: int) -> bool:
    """Say whether a set of scopes allows what needs one of them."""
    # The widest has the highest bit, which no sum of lower ones reaches.
    return granted >= needed


def refusal(needed: Scope) -> GatewayError:
    """Give the refusal of a caller whose token does not allow what it asks for."""
    name = str(needed.name).lower()
    return GatewayError(ErrorCode.FORBIDDEN, f"missing scope: {name}", requiredScope=name)

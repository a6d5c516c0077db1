"""What a token can allow."""

import enum
from typing import Final


class Scope(enum.IntFlag):
    """What a token allows inside its tenant. Granted by look-up of the token, never by a field."""

    READ = 1
    WRITE = 2
    ADMIN = 4


ALL_SCOPES: Final = Scope.READ | Scope.WRITE | Scope.ADMIN

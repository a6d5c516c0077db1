"""Self-signed pairs, good for tests alone: see README.md here."""

from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
FIRST: Final = _HERE / "first.pem"
FIRST_KEY: Final = _HERE / "first.key.pem"
SECOND: Final = _HERE / "second.pem"
SECOND_KEY: Final = _HERE / "second.key.pem"
ENCRYPTED_KEY: Final = _HERE / "encrypted.key.pem"

"""A secret of the configuration, kept outside this process's heap."""

import hashlib
import os
import re
from typing import Final

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,127})\}")


class SealedKey:
    """A secret that the operator gives in `config.yaml`, or by the name of a variable: `${NAME}`.

    It lies in a file in memory (memfd_create(2)), so that what is forked from or dumped of the
    process does not hold it. Equal ones are the same secret.

    Args:
        text: As it was given.

    Raises:
        ValueError: it is empty, or the variable is not set; says which.
    """

    def __init__(self, text: str) -> None:
        named = _VARIABLE.fullmatch(text)
        if named is not None:
            found = os.environ.get(named[1], "")
            if not found:
                msg = f"the environment variable {named[1]} is not set"
                raise ValueError(msg)
            text = found
        if not text or not text.isascii() or not text.isprintable():
            msg = "a key is printable ASCII; or ${NAME}, the name of an environment variable"
            raise ValueError(msg)
        self._digest: Final = hashlib.sha256(text.encode()).digest()
        self._descriptor: Final = os.memfd_create("key", os.MFD_CLOEXEC)
        os.write(self._descriptor, text.encode())

    def text(self) -> str:
        """Give it; not to be kept."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0).decode()

    def __eq__(self, other: object) -> bool:
        """Say whether both are the same secret."""
        return isinstance(other, SealedKey) and self._digest == other._digest

    def __hash__(self) -> int:
        """See `object`."""
        return hash(self._digest)

    def __repr__(self) -> str:
        """See `object`; the secret is not in it."""
        return "SealedKey(…)"

    def __del__(self) -> None:
        """Let the kernel have the memory back."""
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def decode(kind: type, value: object) -> object:
    """Make one of what was read, for `msgspec.convert` (its `dec_hook`).

    Raises:
        ValueError, TypeError: it cannot be; msgspec says where.
    """
    if kind is SealedKey and isinstance(value, str):
        return SealedKey(value)
    msg = f"expected a string, got {type(value).__name__}"
    raise TypeError(msg)

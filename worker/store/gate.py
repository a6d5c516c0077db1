"""Whether the tenant may write: the supervisor's word, asked before anything is made larger."""

from typing import Final

import msgspec

from protocol.spawn import StorageRefusal
from worker import log

_decode: Final = msgspec.json.Decoder(StorageRefusal | None).decode


class Gate:
    """The newest word.

    Args:
        refusal: Why it may not write at the start, if it may not.
    """

    def __init__(self, refusal: StorageRefusal | None = None) -> None:
        self._refusal = refusal

    @property
    def reason(self) -> str | None:
        """Why it may not write; None if it may."""
        return None if self._refusal is None else self._refusal.message

    def check(self) -> None:
        """Let pass what makes more of what there is.

        Raises:
            GatewayError: QUOTA_EXCEEDED or UNAVAILABLE: not now, with the reason.
        """
        if self._refusal is not None:
            raise self._refusal.error()

    def hear(self, body: bytes) -> None:
        """Take another word: the body of the event `storage`."""
        before, self._refusal = self._refusal, _decode(body)
        if self._refusal is None:
            log.write("info", "storage may be written again")
        elif before is None:
            log.write("warning", "storage may not be written", reason=self._refusal.message)

"""`rpc.discover`."""

from typing import Final

import msgspec

from protocol import openrpc
from protocol.methods import rpc
from worker.dispatch import CallContext, handles

# Written out, since reading the distribution's metadata would cost every zygote 3 MB; a test
# compares the two.
VERSION: Final = "0.1.0"
_DOCUMENT: Final = msgspec.Raw(msgspec.json.encode(openrpc.document(VERSION)))


@handles(rpc.DISCOVER)
def answer(_call: CallContext, _params: rpc.DiscoverParams) -> msgspec.Raw:
    """Give the document, which was made when this module was imported and is shared by all."""
    return _DOCUMENT

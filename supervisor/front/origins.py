"""Which pages a browser may have call us (CVE-2026-25253 and its kind: localhost is no trust).

A browser says in `Origin` whose page makes a request; programs send none. One that is sent must be
on the operator's list, or be the gateway's own. CORS (https://fetch.spec.whatwg.org/#http-cors-protocol)
lets the page read the answer.
"""

from typing import Final

from protocol.errors import ErrorCode, GatewayError

PREFLIGHT: Final = (
    b"Access-Control-Allow-Methods: GET, POST\r\n"
    b"Access-Control-Allow-Headers: authorization, content-type, idempotency-key\r\n"
    b"Access-Control-Max-Age: 600\r\n"
)
# What a page may read of a response beside what it always may.
_EXPOSED: Final = b"Access-Control-Expose-Headers: openclaw-quota-warning, retry-after\r\n"


def check(origin: bytes | None, host: bytes | None, allowed: frozenset[str]) -> None:
    """Refuse a page that is not known.

    Args:
        origin: The field `Origin`, None from what is no browser.
        host: The field `Host`, checked already.
        allowed: Origins on the operator's list.

    Raises:
        GatewayError: FORBIDDEN.
    """
    if origin is None:
        return
    name = origin.decode("latin-1").lower()
    if name in allowed or (host and name.partition("://")[2] == host.decode("latin-1").lower()):
        return
    msg = "this origin may not call; allowed_origins in the configuration lists those that may"
    raise GatewayError(ErrorCode.FORBIDDEN, msg)


def headers(origin: bytes) -> bytes:
    """Give what lets a page of this origin, which has been checked, read the answer."""
    return b"Access-Control-Allow-Origin: %b\r\n%bVary: Origin\r\n" % (origin, _EXPOSED)

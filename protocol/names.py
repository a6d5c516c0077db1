"""Names that come from outside: tenants, tokens, channel accounts, agents and session keys.

A name carries no authority. Each check here is by whole-string regular expression and bounded
length, so that a name that passed can be part of a path or a log line.
"""

import hashlib
import re
import secrets
from typing import Final

import msgspec

from protocol import limits

# The look-ahead, since Python's `$` also matches before a trailing newline; JSON Schema takes both.
TENANT_ID_PATTERN: Final = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$(?!\n)"
ACCOUNT_ID_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$(?!\n)"
TOKEN_PATTERN: Final = r"^tk_([a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)_[0-9A-Fa-f]{32}$"
TOKEN_ID_PATTERN: Final = r"^tok_[0-9a-f]{16}$(?!\n)"
TOKEN_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,39}$(?!\n)"
# Nothing that moves a terminal's cursor, breaks a line, turns the writing direction or hides.
DISPLAY_NAME_PATTERN: Final = (
    r"^[^\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb]*$(?!\n)"
)

_TENANT_ID: Final = re.compile(TENANT_ID_PATTERN)
_TOKEN: Final = re.compile(TOKEN_PATTERN.replace("$", r"\Z"))
_ACCOUNT_ID: Final = re.compile(ACCOUNT_ID_PATTERN)
_TOKEN_ID: Final = re.compile(TOKEN_ID_PATTERN)
_TOKEN_NAME: Final = re.compile(TOKEN_NAME_PATTERN)
_DISPLAY_NAME: Final = re.compile(DISPLAY_NAME_PATTERN)
_SECRET: Final = re.compile(r"(tk_[a-z0-9-]{1,40}_|ak_)[0-9a-f]{16,}", re.IGNORECASE)
_SESSION_KEY: Final = re.compile(
    r"agent:[a-z0-9][a-z0-9_-]{0,63}(?::[a-z0-9@+._%=-]{1,400}){1,8}\Z"
)

ADMIN_KEY_PREFIX: Final = "ak_"
"""Of the admin keys that we make; an operator's own may look otherwise."""
TOKEN_SECRET_BYTES: Final = 16
TOKEN_ID_BYTES: Final = 8
DEFAULT_AGENT_ID: Final = "main"


def is_tenant_id(text: str) -> bool:
    """Say whether `text` is a tenant id."""
    return _TENANT_ID.match(text) is not None


def is_account_id(text: str) -> bool:
    """Say whether `text` is a channel account id (the same shape names agents)."""
    return _ACCOUNT_ID.match(text) is not None


def is_session_key(text: str) -> bool:
    """Say whether `text` is a session key, `agent:<agent>:<rest>`, all lower case."""
    return len(text) <= limits.SESSION_KEY_CHARS_MAX and _SESSION_KEY.match(text) is not None


def token_prefix(tenant: str) -> str:
    """Give what every token of a tenant starts with; it is no secret, and may be logged."""
    return f"tk_{tenant}_"


def is_token_id(text: str) -> bool:
    """Say whether `text` is the id of a token."""
    return _TOKEN_ID.match(text) is not None


def is_token_name(text: str) -> bool:
    """Say whether `text` can name a token."""
    return _TOKEN_NAME.match(text) is not None


def is_display_name(text: str) -> bool:
    """Say whether `text` can be shown to people as a name."""
    # What came as JSON holds no lone surrogates; what came from a command line can.
    whole = not any("\ud800" <= letter <= "\udfff" for letter in text)
    short = len(text) <= limits.DISPLAY_NAME_CHARS_MAX
    return short and whole and _DISPLAY_NAME.match(text) is not None


def hide_secrets(text: str) -> str:
    """Give `text` with whatever looks like a tenant's token or an admin key cut to its prefix."""
    return _SECRET.sub(r"\1…", text)


def encode_shown(value: object) -> bytes:
    """Give as JSON what may quote a client, who may have sent a secret in a wrong place."""
    return hide_secrets(msgspec.json.encode(value).decode()).encode()


def mint_token_id() -> str:
    """Make a new token's id, which is no secret."""
    return f"tok_{secrets.token_hex(TOKEN_ID_BYTES)}"


def mint_token(tenant: str) -> str:
    """Make a new tenant token, `tk_<tenant>_<32 hex>`, with 128 bits from the system's generator.

    Raises:
        ValueError: `tenant` is no tenant id.
    """
    if not is_tenant_id(tenant):
        msg = f"not a tenant id: {tenant!r}"
        raise ValueError(msg)
    return token_prefix(tenant) + secrets.token_hex(TOKEN_SECRET_BYTES)


def claimed_tenant(token: str) -> str | None:
    """Give the tenant that a token names, or None when it has not the shape of a token.

    Only good for throttling and logs: who a caller is comes from the digest alone.
    """
    match = _TOKEN.match(token)
    return match.group(1) if match else None


def digest(secret: str) -> bytes:
    """Give the SHA-256 under which a token or admin key is kept (32 bytes).

    A plain hash is right here: the secret is 128 random bits, not a password.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

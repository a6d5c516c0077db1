"""Names from outside: the patterns as properties, and the tails that slip past careless ones."""

import hashlib
import re
import string

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, names
from protocol.methods import channels, sessions

LOWER = string.ascii_lowercase + string.digits
# Among them what a careless fold or a Unicode class takes: Cyrillic a, Kelvin sign, Arabic 3.
TAILS = [*"\n\r\0 \t/.A", "\r\n", *"\u2028\x85\xe9\u0430\u212a\u0663\ud800"]

tenant_ids = st.from_regex(names.TENANT_ID_PATTERN, fullmatch=True)
account_ids = st.from_regex(names.ACCOUNT_ID_PATTERN, fullmatch=True)
session_keys = st.builds(
    lambda agent, rest: ":".join(["agent", agent, *rest]),
    account_ids,
    st.lists(st.text(f"{LOWER}@+._%=-", min_size=1, max_size=50), min_size=1, max_size=8),
)
near_misses = st.text(f"{LOWER}-_:A\n\0 é", max_size=70)


def typed(kind: object, text: str) -> bool:
    """Whether msgspec takes `text` for `kind`, as it does on the wire."""
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


def means_tenant_id(text: str) -> bool:
    """The rule in words: 1..40 of a-z 0-9 and hyphen, none of the ends a hyphen."""
    return (
        1 <= len(text) <= limits.TENANT_ID_CHARS_MAX
        and set(text) <= set(f"{LOWER}-")
        and "-" not in (text[0], text[-1])
    )


def means_account_id(text: str) -> bool:
    return (
        1 <= len(text) <= limits.ACCOUNT_ID_CHARS_MAX
        and set(text) <= set(f"{LOWER}-_")
        and text[0] in LOWER
    )


@given(tenant_ids | near_misses)
def test_tenant_ids_follow_their_rule(text: str) -> None:
    assert names.is_tenant_id(text) == means_tenant_id(text)
    wire = channels.InboundEnvelope.__annotations__["tenant"]
    assert typed(wire, text) == means_tenant_id(text)


@given(account_ids | near_misses)
def test_account_and_agent_ids_follow_their_rule(text: str) -> None:
    assert names.is_account_id(text) == means_account_id(text)
    assert typed(sessions.AgentId, text) == means_account_id(text)
    assert typed(channels.InboundParams.__annotations__["account"], text) == means_account_id(text)


@pytest.mark.parametrize("tail", TAILS)
@settings(max_examples=15)
@given(tenant_ids, account_ids, session_keys)
def test_no_tail_slips_past(tail: str, tenant: str, account: str, key: str) -> None:
    assert tail == "." or not names.is_session_key(key + tail)
    assert not names.is_tenant_id(tenant + tail)
    assert not names.is_tenant_id(tail + tenant)
    assert not names.is_account_id(account + tail)
    assert not names.is_account_id(tail + account)
    assert not names.is_session_key(tail + key)
    assert names.claimed_tenant(names.mint_token(tenant) + tail) is None
    assert not typed(sessions.AgentId, account + tail)
    assert tail in "./A" or not typed(channels.OutsideId, account + tail)


@pytest.mark.parametrize("text", ["", "-", "a-", "-a", "a" * 41, "A", "a_b", "..", "a/b", "a\nb"])
def test_no_tenant_ids(text: str) -> None:
    assert not names.is_tenant_id(text)


@pytest.mark.parametrize("text", ["a", "0", "a-b", "a--b", "a" * 40, "0" * 40])
def test_tenant_ids(text: str) -> None:
    assert names.is_tenant_id(text)
    assert names.claimed_tenant(names.mint_token(text)) == text


@given(session_keys)
def test_session_keys(key: str) -> None:
    assert names.is_session_key(key) == (len(key) <= limits.SESSION_KEY_CHARS_MAX)


def test_session_keys_at_their_bounds() -> None:
    start = "agent:main:"
    parts = start + "a" * 400 + ":" + "b" * 400 + ":"
    longest = parts + "c" * (limits.SESSION_KEY_CHARS_MAX - len(parts))
    assert names.is_session_key(longest)
    assert not names.is_session_key(longest + "b")
    assert names.is_session_key("agent:main" + ":x" * 8)
    assert not names.is_session_key("agent:main" + ":x" * 9)
    assert not names.is_session_key(start + "a" * 401)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "main",
        "agent:",
        "agent:main",
        "agent:main:",
        "agent::x",
        "agent:main:x:",
        "agent:main::x",
        *("Agent:main:x", "agent:main:X", "agent:main:a/b", "agent:main:a b", "agent:ma.in:x"),
    ],
)
def test_no_session_keys(key: str) -> None:
    assert not names.is_session_key(key)


@pytest.mark.parametrize("text", ["agent:" * 20_000, "agent:a" + ":a" * 250 + "!", "a" * 512])
def test_long_nonsense_is_refused_at_once(text: str) -> None:
    assert not names.is_session_key(text)
    assert not names.is_tenant_id(text)
    assert names.claimed_tenant("tk_" + text) is None


@given(tenant_ids)
def test_tokens_have_their_shape_and_name_their_tenant(tenant: str) -> None:
    token = names.mint_token(tenant)
    assert re.fullmatch(rf"tk_{re.escape(tenant)}_[0-9a-f]{{32}}", token)
    assert names.claimed_tenant(token) == tenant


def test_tokens_are_unique_and_use_all_their_bits() -> None:
    secrets = [names.mint_token("acme").rpartition("_")[2] for _ in range(2000)]
    assert len(set(secrets)) == 2000
    for place in range(32):
        assert {secret[place] for secret in secrets} == set("0123456789abcdef")


@given(near_misses)
def test_no_token_for_what_is_no_tenant(text: str) -> None:
    if not means_tenant_id(text):
        with pytest.raises(ValueError, match="not a tenant id"):
            names.mint_token(text)


@given(near_misses | st.text(max_size=100))
def test_claimed_tenants_are_tenant_ids(text: str) -> None:
    for token in (text, f"tk_{text}", f"tk_{text}_{'0' * 32}"):
        claimed = names.claimed_tenant(token)
        assert claimed is None or (means_tenant_id(claimed) and token.startswith(f"tk_{claimed}_"))


@pytest.mark.parametrize(
    "token",
    [
        *("", "tk_acme", f"tk_acme_{'0' * 31}", f"tk_acme_{'0' * 33}", f"TK_acme_{'0' * 32}"),
        *(f"tk__{'0' * 32}", f"tk_acme_{'g' * 32}", f"tk_{'a' * 41}_{'0' * 32}"),
        *(f" tk_acme_{'0' * 32}", f"tk_acme_x_{'0' * 32}", f"tk_acme_{'٣' * 32}"),
    ],
)
def test_what_is_no_token_claims_nothing(token: str) -> None:
    assert names.claimed_tenant(token) is None


@given(st.text(max_size=100))
def test_digests(secret: str) -> None:
    assert names.digest(secret) == hashlib.sha256(secret.encode()).digest()


def test_bytes_of_the_environment_can_be_digested() -> None:
    assert (
        names.digest(b"k\xffy".decode("utf-8", "surrogateescape"))
        == hashlib.sha256(b"k\xffy").digest()
    )

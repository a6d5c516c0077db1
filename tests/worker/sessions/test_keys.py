from hypothesis import given
from hypothesis import strategies as st

from protocol import names
from worker.sessions import keys

outside_ids = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=120
)


conversations = st.tuples(outside_ids, st.none() | outside_ids)


@given(conversations)
def test_peers_make_session_keys(peer: tuple[str, str | None]) -> None:
    assert names.is_session_key(keys.for_peer("a" * 64, "b" * 64, "c" * 64, *peer))


@given(conversations, conversations)
def test_different_conversations_never_meet(
    one: tuple[str, str | None], two: tuple[str, str | None]
) -> None:
    same = keys.for_peer("main", "c", "a", *one) == keys.for_peer("main", "c", "a", *two)
    assert same == (one == two)


def test_what_is_encoded() -> None:
    key = keys.for_peer("main", "wa", "acc", "wa:+1555@X.y_z=-%41", "1:x")
    assert key == "agent:main:wa:acc:direct:wa%3a+1555@%58.y_z=-%2541:1%3ax"
    assert keys.agent_of(key) == "main"


def test_new_keys_are_session_keys() -> None:
    assert names.is_session_key(keys.for_dashboard("main"))
    assert keys.for_dashboard("main") != keys.for_dashboard("main")


def test_fingerprints_tell_facts_apart() -> None:
    facts = [("a", "b"), ("ab", ""), ("", "ab"), ("ab",), ("ab", None), ("a", "b", None)]
    assert len({keys.fingerprint("m", each) for each in facts}) == len(facts)
    assert keys.fingerprint("m", "x") != keys.fingerprint("n", "x")

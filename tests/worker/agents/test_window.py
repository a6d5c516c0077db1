"""What of a conversation a model is told, when its window is too small for all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart, ToolCallPart, ToolResultPart
from worker.agents import window
from worker.agents.model import PromptMessage


def said(role: str, text: str) -> PromptMessage:
    return PromptMessage(role, (TextPart(text=text),))  # type: ignore[arg-type]


def asked(*ids: str) -> PromptMessage:
    parts = tuple(ToolCallPart(call_id=each, name="plus", arguments="{}") for each in ids)
    return PromptMessage("assistant", parts)


def answered(call_id: str, text: str) -> PromptMessage:
    return PromptMessage("tool", (ToolResultPart(call_id=call_id, name="plus", text=text),))


def test_all_of_it_is_told_if_it_fits_or_nobody_knows() -> None:
    earlier = (said("system", "be brief"), said("user", "a"), said("assistant", "b"))
    messages = (*earlier, said("user", "c"))
    assert window.fitted(messages, 3, 10_000, 0) == messages
    assert window.fitted([*messages, said("user", "x" * 10**6)], 4, None, 0)[-1].role == "user"


def test_older_turns_go_whole_and_a_note_says_so() -> None:
    messages = [said("system", "be brief")]
    for number in range(10):
        messages += [said("user", f"question {number}"), asked(f"{number}")]
        messages += [answered(f"{number}", "x" * 300), said("assistant", f"answer {number}")]
    messages.append(said("user", "now"))
    told = window.fitted(messages, len(messages) - 1, 1000, 50)
    assert told[0] == messages[0]
    note = told[1].parts[0]
    assert isinstance(note, TextPart)
    left_out = len(messages) - len(told) + 1
    assert note.text.startswith(f"[{left_out} earlier messages")
    assert told[2].role == "user"
    assert list(told[2:]) == messages[-len(told) + 2 :]
    assert left_out % 4 == 0


def test_the_steps_of_this_turn_go_after_all_others_with_their_results() -> None:
    messages = [said("user", "old"), said("assistant", "older"), said("user", "now")]
    for number in range(10):
        messages += [asked(f"{number}a", f"{number}b")]
        messages += [answered(f"{number}a", "x" * 300), answered(f"{number}b", "x" * 300)]
    told = window.fitted(messages, 2, 1000, 0)
    assert [message.role for message in told[:3]] == ["user", "user", "user"]
    assert told[1] == messages[2]
    assert told[3] == messages[-len(told) + 3]
    assert told[3].role == "assistant"
    assert "old" not in str(told[0].parts)


@pytest.mark.parametrize(
    ("messages", "newest", "what"),
    [
        ([said("user", "x" * 10_000)], 0, "the message is too big"),
        ([said("system", "x" * 10_000), said("user", "x")], 1, "the system prompt is too big"),
        ([said("user", "x"), asked("1"), answered("1", "x" * 10_000)], 0, "what tools have"),
    ],
)
def test_what_is_too_big_by_itself_is_named(
    messages: list[PromptMessage], newest: int, what: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        window.fitted(messages, newest, 1000, 0)
    assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert refused.value.message.startswith(what)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 600)), max_size=12),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 600)), max_size=6),
    st.integers(300, 5000),
)
def test_what_is_told_fits_and_no_result_is_without_its_call(
    before: list[tuple[int, int]], after: list[tuple[int, int]], size: int
) -> None:
    def steps(many: list[tuple[int, int]]) -> list[PromptMessage]:
        found: list[PromptMessage] = []
        for calls, chars in many:
            ids = [f"{len(found)}-{number}" for number in range(calls)]
            if not calls:
                found.append(said("user", "x" * chars))
            found.append(asked(*ids))
            found += [answered(each, "x" * (chars // calls)) for each in ids]
        return found

    earlier = steps(before)
    messages = [said("system", "s"), *earlier, said("user", "now"), *steps(after)]
    newest = 1 + len(earlier)
    try:
        told = window.fitted(messages, newest, size, 20)
    except GatewayError:
        return
    assert sum(map(window.tokens, told)) + 20 <= size
    assert messages[newest] in told
    known: set[str] = set()
    for message in told:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                known.add(part.call_id)
            elif isinstance(part, ToolResultPart):
                assert part.call_id in known
    wanted = {p.call_id for m in told for p in m.parts if isinstance(p, ToolResultPart)}
    assert known == wanted

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart, ToolCallPart, ToolResultPart
from worker.agents.model import PromptMessage
from worker.agents.window import LEFT_OUT, fitting


def said(role: str, text: str) -> PromptMessage:
    return PromptMessage(role, (TextPart(text=text),))  # type: ignore[arg-type]


SYSTEM = said("system", "be kind")
CALL = PromptMessage("assistant", (ToolCallPart(call_id="1", name="clock", arguments="{}"),))
RESULT = PromptMessage("tool", (ToolResultPart(call_id="1", name="clock", text="n" * 100),))


def test_without_a_known_window_all_is_told() -> None:
    messages = [said("user", "x" * 10_000)] * 100
    assert fitting(messages, (), None) == tuple(messages)


def test_older_turns_are_left_out_whole_and_the_model_is_told_so() -> None:
    old = [said("user", "one"), CALL, RESULT, said("assistant", "noon")]
    new = [said("user", "two"), CALL, RESULT]
    # A turn is about 100 tokens; three quarters of the window are for what is told.
    assert fitting([SYSTEM, *old, *new], (), 200) == (SYSTEM, LEFT_OUT, *new)
    assert fitting([SYSTEM, *old, *new], (), 400) == (SYSTEM, *old, *new)


def test_a_newest_turn_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GatewayError, match="room for") as refused:
        fitting([SYSTEM, said("user", "x" * 10_000)], (), 1000)
    assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.integers(0, 60)), max_size=30),
    st.integers(100, 2000),
)
def test_what_is_told_is_an_end_of_the_conversation_that_fits(
    shape: list[tuple[str, int]], window: int
) -> None:
    messages = [said(role, "y" * size) for role, size in [*shape, ("user", 1)]]
    told = list(fitting(messages, (), window))
    if told[0] == LEFT_OUT:
        del told[0]
        assert told[0].role == "user"
    assert told == messages[len(messages) - len(told) :]
    sizes = (len(part.text) for each in told for part in each.parts if isinstance(part, TextPart))
    assert sum(sizes) / 2 + 8 * len(told) <= window * 3 / 4 + len(told) + 1

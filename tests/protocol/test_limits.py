"""How the bounds stand to each other: none may make another impossible to meet."""

from protocol import limits


def test_every_bound_is_a_positive_number() -> None:
    bounds = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert len(bounds) > 40
    assert {name: value for name, value in bounds.items() if not value > 0} == {}


def test_a_body_and_an_answer_fit_a_frame() -> None:
    assert limits.HTTP_BODY_BYTES_MAX < limits.FRAME_BYTES_MAX
    assert limits.HISTORY_BYTES_MAX < limits.FRAME_BYTES_MAX
    assert limits.CHUNK_BYTES_MAX < limits.FRAME_BYTES_MAX
    # Text of which every character is escaped (six bytes) still fits a body.
    assert limits.MESSAGE_CHARS_MAX * 6 < limits.HTTP_BODY_BYTES_MAX


def test_one_tenant_cannot_fill_what_is_shared() -> None:
    assert limits.TENANT_CALLS_IN_FLIGHT_MAX < limits.CALLS_IN_FLIGHT_MAX
    assert limits.HOLD_BYTES_MAX <= limits.TENANT_BYTES_IN_FLIGHT_MAX
    assert limits.TENANT_BYTES_IN_FLIGHT_MAX < limits.FRONT_BYTES_IN_FLIGHT_MAX
    assert limits.CONTROL_CALLS_IN_FLIGHT_MAX < limits.CALLS_IN_FLIGHT_MAX
    # What a tenant's clients send at once never looks like a worker that does not read.
    spare = limits.LINK_WRITE_BUFFER_MAX - limits.TENANT_BYTES_IN_FLIGHT_MAX
    assert spare >= limits.FRAME_BYTES_MAX


def test_marks_are_in_order() -> None:
    assert limits.LINK_WRITE_BUFFER_LOW < limits.LINK_WRITE_BUFFER_HIGH
    assert limits.LINK_WRITE_BUFFER_HIGH < limits.LINK_WRITE_BUFFER_MAX
    assert limits.STREAM_CREDIT_INITIAL <= limits.STREAM_CREDIT_MAX
    assert limits.HISTORY_MESSAGES_DEFAULT <= limits.HISTORY_MESSAGES_MAX
    assert limits.SESSIONS_PAGE_DEFAULT <= limits.SESSIONS_PAGE_MAX
    assert limits.CALL_SECONDS_DEFAULT <= limits.CALL_SECONDS_MAX
    assert limits.DRAIN_SECONDS <= limits.DRAIN_SECONDS_MAX

import json

import apsw
import pytest

from worker import log, refusal


def logged(capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) <= log.LINE_BYTES_MAX
    found: dict[str, object] = json.loads(line)
    return found


def test_lines_are_json_with_control_characters_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    log.write("info", "x", tool="a\nb\x1b[2J")
    assert logged(capfd) == {"level": "info", "event": "x", "tool": "a\nb\x1b[2J"}


def test_long_lines_are_cut(capfd: pytest.CaptureFixture[str]) -> None:
    log.write("info", "x", a="y" * 10_000, b=1)
    assert logged(capfd) == {"level": "info", "event": "x", "cut": ["a", "b"]}


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("secret"), None), (OSError("known"), "known"), (apsw.FullError("full"), "full")],
)
def test_only_texts_of_the_system_are_kept(
    capfd: pytest.CaptureFixture[str], error: Exception, text: str | None
) -> None:
    log.failure("x", error)
    assert logged(capfd).get("text") == text


def test_deep_traces_are_cut(capfd: pytest.CaptureFixture[str]) -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$") as raised:
        deep(500)
    answer = refusal.of(raised.value, method="health")
    line = logged(capfd)
    assert line["reference"] == answer.details["reference"]
    assert len(line["at"]) == log.FRAMES_MAX  # type: ignore[arg-type]

"""What a provider reports, as far as it can be true."""

from typing import Any, Final

from protocol.models import ModelPiece, ToolPiece

TOKENS_MAX: Final = 2**27
"""Of one class of one call. Whoever reports more has not said how much it was."""
CALLS_MAX: Final = 128
NAME_CHARS_MAX: Final = 256
"""Of a tool call's id and name, of a provider's id of a request."""
_TEXT_CHARS_MAX: Final = 8 * 1024
"""Of one piece: as JSON it is at most six times as much, and has to fit a chunk."""


def count(value: Any) -> int | None:
    """Give a number of tokens; None for anything that cannot be one."""
    if type(value) is int:
        return value if 0 <= value <= TOKENS_MAX else None
    if isinstance(value, float) and value.is_integer():
        return count(int(value))
    return None


def counts(*values: Any) -> list[int] | None:
    """Give numbers of tokens, of which those that are not said are 0; None if one is none."""
    found = [0 if value is None else count(value) for value in values]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


class Gathered:
    """Puts what comes at once into as few pieces as hold it."""

    def __init__(self) -> None:
        self._answered = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: list[ToolPiece] = []

    @property
    def answered(self) -> bool:
        """Whether anything was said or asked for, also earlier."""
        return self._answered or bool(self._text or self._reasoning or self._tools)

    def text(self, said: str) -> None:
        """Add to the text."""
        if said:
            # The order between text and calls is not kept: they are apart in every API.
            self._text.append(said)

    def reasoning(self, said: str) -> None:
        """Add to the reasoning."""
        if said:
            self._reasoning.append(said)

    def tool(self, index: int, call_id: str = "", name: str = "", arguments: str = "") -> None:
        """Add to a tool call."""
        self._tools.append(ToolPiece(index, call_id, name, arguments))

    def pieces(self) -> list[ModelPiece]:
        """Give what there is, and begin anew."""
        if not (self._text or self._reasoning or self._tools):
            return []
        self._answered = True
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        tools = self._tools
        self._text, self._reasoning, self._tools = [], [], []
        room = _TEXT_CHARS_MAX
        if len(text) + len(reasoning) + sum(map(_size, tools)) <= room:
            return [ModelPiece(text, reasoning, tuple(tools))]
        found = [ModelPiece("", reasoning[at : at + room]) for at in range(0, len(reasoning), room)]
        found += [ModelPiece(text[at : at + room]) for at in range(0, len(text), room)]
        for each in tools:
            first, more = each.arguments[:room], range(room, len(each.arguments), room)
            head = ToolPiece(each.index, each.id, each.name, first)
            rest = [ToolPiece(each.index, "", "", each.arguments[at : at + room]) for at in more]
            found += [ModelPiece("", "", (piece,)) for piece in (head, *rest)]
        return found


def _size(piece: ToolPiece) -> int:
    return len(piece.id) + len(piece.name) + len(piece.arguments)

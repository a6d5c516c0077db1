"""What the fake upstream is to say, read from the request itself.

Options stand in the model's name, `fake/chunks:200/pace:5`, or in the last thing that the user
said, `[[fault:429 after:1]]`. Without a script it repeats what the user said. With one, it plays
it: steps are divided by `[[then]]`, one for each round of tools, and a step is text with calls in
it, `[[call read {"path": "a.txt"}]]`.

| option | does |
|---|---|
| `chunks:N` | the answer is N words, each a piece of its own |
| `pace:MS` | so long between the pieces of a stream |
| `think:TEXT` | reasoning before the answer (`_` is a blank) |
| `cached:N` | of the prompt, so many tokens were read from a cache |
| `written:N` | Anthropic: so many tokens were written to a cache |
| `stop:WORD` | the reason that is given for the end |
| `usage:KIND` | `none`, `negative`, `nan`, `huge`, `text`, `null`, `less` |
| `line:KIND` | lines of a stream end with `crlf` or `cr`; `comments` puts some between them |
| `fault:KIND` | see `tests/upstream/faults.py` |
| `times:N` | only the first N requests with this model and these options have the fault |
| `after:S` | `Retry-After` of a fault that has one |
"""

import re
from typing import Any, NamedTuple

import msgspec

THEN = "[[then]]"
_CALL = re.compile(r"\[\[call ([A-Za-z0-9_-]+) (.*?)\]\]", re.DOTALL)
_OPTIONS = re.compile(r"\[\[([a-z]+:[^\]]*)\]\]")


class Call(NamedTuple):
    """A tool call; `arguments` is JSON text, or what is none."""

    name: str
    arguments: str


class Plan(NamedTuple):
    """One answer. Usage counts what is in it, four bytes a token, and of the prompt the same."""

    model: str
    stream: bool
    include_usage: bool
    options: dict[str, str]
    text: str
    reasoning: str
    calls: tuple[Call, ...]
    prompt_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cut: bool

    def number(self, option: str, default: float = 0) -> float:
        return float(self.options.get(option, default))

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed."""
        return re.findall(r"\S+\s*|\s+", self.text)


class Asked(msgspec.Struct):
    """The part of a request, of either dialect, that decides about the answer."""

    model: str
    messages: list[dict[str, Any]] = []
    system: Any = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    stop: Any = None
    input: Any = None
    dimensions: int | None = None
    encoding_format: str = "float"


decode = msgspec.json.Decoder(Asked).decode


def tokens(text: str) -> int:
    """What this provider calls the tokens of a text."""
    return -(-len(text.encode()) // 4)


def options_of(model: str, said: str = "") -> dict[str, str]:
    found = model.split("/")[1:]
    for group in _OPTIONS.findall(said):
        found += group.split()
    return dict(part.split(":", 1) for part in found if ":" in part)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or blocks."""
    if isinstance(content, str):
        return content
    texts = [block.get("text") or "" for block in content or [] if isinstance(block, dict)]
    return "".join(map(str, texts))


def plan(asked: Asked) -> Plan:
    """Make the answer to a request."""
    said, rounds, results = _heard(asked.messages)
    options = options_of(asked.model, said)
    prompt = sum(tokens(text_of(each.get("content"))) + 3 for each in asked.messages)
    prompt += tokens(text_of(asked.system)) + sum(tokens(str(tool)) for tool in asked.tools or ())
    text, calls = _step(said, rounds, results)
    if "chunks" in options:
        text, calls = "word " * int(options["chunks"]), ()
    limit = asked.max_completion_tokens or asked.max_tokens or 2**40
    cut = tokens(text) > limit
    if cut:
        text = text.encode()[: 4 * limit].decode(errors="ignore")
    reasoning = options.get("think", "").replace("_", " ")
    spoken = tokens(text) + sum(tokens(call.name + call.arguments) for call in calls)
    return Plan(
        model=asked.model,
        stream=asked.stream,
        include_usage=bool((asked.stream_options or {}).get("include_usage")),
        options=options,
        text=text,
        reasoning=reasoning,
        calls=calls,
        prompt_tokens=prompt,
        output_tokens=spoken,
        reasoning_tokens=tokens(reasoning),
        cut=cut,
    )


def _heard(messages: list[dict[str, Any]]) -> tuple[str, int, list[str]]:
    """What the user said last, how many rounds of tools came since, and what the last one gave."""
    rounds = 0
    results: list[str] = []
    for message in reversed(messages):
        content = message.get("content")
        given = [
            text_of(block.get("content"))
            for block in (content if isinstance(content, list) else ())
            if isinstance(block, dict) and block.get("type") == "tool_result"
        ]
        if message["role"] == "tool":
            given = [text_of(content)]
        if given:
            if not rounds:
                results = given + results
        elif message["role"] == "assistant":
            rounds += 1
        elif message["role"] == "user":
            return text_of(content), rounds, results
    return "", rounds, results


def _step(said: str, rounds: int, results: list[str]) -> tuple[str, tuple[Call, ...]]:
    scripted = THEN in said or _CALL.search(said) is not None
    steps = _OPTIONS.sub("", said).split(THEN) if scripted else []
    if rounds >= len(steps):
        spoken = _OPTIONS.sub("", said).strip()
        return ("the tool said: " + " ".join(results) if results else f"You said: {spoken}"), ()
    calls = tuple(Call(*found) for found in _CALL.findall(steps[rounds]))
    return _CALL.sub("", steps[rounds]).strip(), calls

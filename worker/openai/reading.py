"""What of OpenAI's requests needs a look: pictures, tools, formats, and what cannot be honoured.

Refusals name the field as the client wrote it, and what to do.
"""

import binascii
import re
from collections.abc import Iterable
from typing import Any, Final, Literal, NoReturn, TypeVar

import msgspec

from protocol import params
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Block, ImageBlock, NamedTool, OfferedTool, TextBlock
from worker.openai import bodies, schemas

B = TypeVar("B", bound=bodies.Body)
_DATA_URL: Final = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,", re.IGNORECASE)


def refuse(field: str, why: str) -> NoReturn:
    """Refuse a request for one of its fields.

    Raises:
        GatewayError: INVALID_REQUEST, always.
    """
    raise GatewayError(ErrorCode.INVALID_REQUEST, f"{field}: {why}", field=field)


def body(decoder: "msgspec.json.Decoder[B]", raw: bytes | msgspec.Raw) -> B:
    """Read what a client sent.

    Raises:
        GatewayError: INVALID_REQUEST naming the field; PARSE_ERROR.
    """
    try:
        decoded = decoder.decode(raw)
    except msgspec.ValidationError as error:
        path, why = params.explain(str(error))
        refuse(params.printable(path, params.NAME_CHARS_SHOWN) or "body", why)
    except RecursionError:
        raise GatewayError(ErrorCode.PARSE_ERROR, "the body is nested too deeply") from None
    nul_at = params.nul_in(bytes(raw), decoded)
    if nul_at is not None:
        refuse(nul_at, params.NO_NUL)
    return decoded


def check_supported(asked: bodies.Unsupported) -> None:
    """Refuse what would change the answer and cannot be honoured."""
    if asked.n not in (None, 1):
        refuse("n", "one answer is given to a request; leave it out, and ask again for another")
    for field in ("logprobs", "top_logprobs"):
        if getattr(asked, field):
            refuse(field, "probabilities of tokens are not told; leave it out")
    if asked.logit_bias:
        refuse("logit_bias", "tokens cannot be favoured; leave it out")
    for field in ("frequency_penalty", "presence_penalty"):
        if getattr(asked, field):
            refuse(field, "repetition cannot be penalized; leave it out or give 0")
    if set(asked.modalities or ()) - {"text"}:
        refuse("modalities", 'answers are text; leave it out or give ["text"]')
    if asked.audio is not None:
        refuse("audio", "answers are text; leave it out")
    for field, instead in (("functions", "tools"), ("function_call", "tool_choice")):
        if getattr(asked, field) is not None:
            refuse(field, f"this is not taken any more; use {instead}")
    if asked.web_search_options is not None:
        refuse("web_search_options", "there is no search of the web here; leave it out")


def picture(url: str, field: str) -> ImageBlock:
    """Give a picture that came as a `data:` URL."""
    found = _DATA_URL.match(url)
    if found is None:
        refuse(
            field,
            "pictures are taken as data:image/png;base64,… (or jpeg, gif, webp) only:"
            " fetch it yourself and send what is in it",
        )
    data = url[found.end() :]
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        refuse(field, "what follows the comma is no base64")
    media_type: Any = found[1].lower()
    return ImageBlock(media_type=media_type, data=data)


def texts(content: str | Iterable[bodies.TextContent | bodies.InputText]) -> tuple[Block, ...]:
    """Give blocks for a text, or for parts of one."""
    if isinstance(content, str):
        return (TextBlock(text=content),)
    return tuple(TextBlock(text=part.text) for part in content)


def tool(name: str, description: str | None, parameters: object, field: str) -> OfferedTool:
    """Give a tool of the client's, whose parameters have to be a JSON Schema of an object."""
    if parameters is None:
        return OfferedTool(name=name, description=description or "")
    schemas.check_object(parameters, field)
    raw = msgspec.Raw(msgspec.json.encode(parameters))
    return OfferedTool(name=name, description=description or "", parameters=raw)


def tool_choice(
    choice: bodies.Choice | NamedTool | None, tools: tuple[OfferedTool, ...]
) -> Literal["auto", "none", "required"] | NamedTool:
    """Give which tool the model has to call."""
    if choice is None or choice == "auto" or choice == "none":  # noqa: PLR1714 - for mypy
        return choice or "auto"
    if not tools:
        refuse("tool_choice", "there are no tools to choose from; give tools, or leave it out")
    if isinstance(choice, NamedTool) and choice.name not in {tool.name for tool in tools}:
        refuse("tool_choice", "no tool of this name is in tools")
    return choice


def check_distinct(tools: tuple[OfferedTool, ...]) -> None:
    """Refuse two tools of one name."""
    if len({tool.name for tool in tools}) < len(tools):
        refuse("tools", "two have the same name")


class _JsonSchema(bodies.Body, frozen=True, kw_only=True):
    name: str
    schema: Any = None


class _Format(bodies.Body, frozen=True, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


def response_format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give the format of the answer, None for plain text."""
    if given is None:
        return None
    try:
        found = msgspec.convert(given, _Format)
    except msgspec.ValidationError as error:
        refuse("response_format", str(error).replace("`", ""))
    if found.type == "text":
        return None
    if found.type == "json_schema":
        if found.json_schema is None:
            refuse("response_format.json_schema", "required for this type, but missing")
        if found.json_schema.schema is not None:
            schemas.check(found.json_schema.schema, "response_format.json_schema.schema")
    return given

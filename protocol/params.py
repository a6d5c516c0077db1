"""Parameters from JSON into their Struct; what is wrong with them named by its path."""

import re
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import ErrorCode, GatewayError

NAME_CHARS_SHOWN: Final = 64
REASON_CHARS_SHOWN: Final = 300
UNKNOWN_FIELD: Final = "unknown field"

P = TypeVar("P", bound=msgspec.Struct)

# What msgspec writes: "Expected `int`, got `str` - at `$.limit`".
_PATH: Final = re.compile(r"(?P<reason>.*) - at (?:`key` in )?`\$\.?(?P<path>.*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>\w+)`")
# How msgspec shows the end of our patterns; it says nothing to people.
_NO_LINE_END: Final = r"(?!\\n)'"
_NUL_IN_JSON: Final = b"\\u0000"


def decode(method: str, decoder: "msgspec.json.Decoder[P]", params: bytes) -> P:
    """Read the parameters of a method.

    Raises:
        GatewayError: PARSE_ERROR for what is no JSON; INVALID_REQUEST naming the path for JSON that
            is not what the method takes, or that has a NUL in a string.
    """
    try:
        decoded = decoder.decode(params)
    except msgspec.ValidationError as error:
        raise _invalid(method, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the params are no JSON: {printable(str(error), REASON_CHARS_SHOWN)}"
        raise GatewayError(ErrorCode.PARSE_ERROR, message) from None
    except RecursionError:
        raise GatewayError(ErrorCode.PARSE_ERROR, "the params are nested too deeply") from None
    if _NUL_IN_JSON in params:
        _refuse_nul(method, decoded, "")
    return decoded


def printable(text: str, at_most: int) -> str:
    """Give a text from outside for a message: ASCII, control characters escaped, cut."""
    shown = ascii(text[: at_most + 1])[1:-1]
    return shown if len(text) <= at_most and len(shown) <= at_most else f"{shown[:at_most]}…"


def _invalid(method: str, problem: str) -> GatewayError:
    path, reason = explain(problem)
    if not path and reason.startswith("expected object, got"):
        message = "params must be an object (by name)"
        return GatewayError(ErrorCode.INVALID_REQUEST, message, field="params")
    return _refusal(method, path, reason)


def explain(problem: str) -> tuple[str, str]:
    """Give the path that msgspec's text of a `ValidationError` names, and what is wrong there."""
    found = _PATH.fullmatch(problem)
    reason, path = (found["reason"], found["path"]) if found else (problem, "")
    if unknown := _UNKNOWN.fullmatch(reason):
        return _below(path, unknown["name"]), UNKNOWN_FIELD
    if missing := _MISSING.fullmatch(reason):
        return _below(path, missing["name"]), "required, but missing"
    reason = reason.replace("`", "").replace(_NO_LINE_END, "'")
    return path, reason[:1].lower() + reason[1:]


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refusal(method: str, path: str, reason: str) -> GatewayError:
    field = printable(path, NAME_CHARS_SHOWN)
    shown = printable(reason, REASON_CHARS_SHOWN)
    message = f"invalid {method} params: $.{field}: {shown}"
    return GatewayError(ErrorCode.INVALID_REQUEST, message, field=field)


def _refuse_nul(method: str, value: Any, path: str) -> None:
    """Refuse NUL in any string: SQLite and C libraries take it for the end."""
    if isinstance(value, str):
        if "\0" in value:
            raise _refusal(method, path, "must not contain NUL")
    elif isinstance(value, msgspec.Struct):
        info = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        for wire_name, name in info:
            _refuse_nul(method, getattr(value, name), _below(path, wire_name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_nul(method, item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_nul(method, name, path)
            _refuse_nul(method, item, _below(path, name))

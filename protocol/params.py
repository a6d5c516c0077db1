"""Parameters from JSON into their Struct; what is wrong with them named by its path."""

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import ErrorCode, GatewayError

NAME_CHARS_SHOWN: Final = 64
REASON_CHARS_SHOWN: Final = 300
UNKNOWN_FIELD: Final = "unknown field"
NO_NUL: Final = "must not contain NUL"

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
    path = nul_in(params, decoded)
    if path is not None:
        raise _refusal(method, path, NO_NUL)
    return decoded


def nul_in(body: bytes, decoded: object) -> str | None:
    """Give the path to a string that holds a NUL: SQLite and C libraries take it for the end.

    Args:
        body: JSON.
        decoded: What it says.
    """
    return _nul_at(decoded, "") if _NUL_IN_JSON in body else None


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


def _nul_at(value: Any, path: str) -> str | None:
    if isinstance(value, str):
        return path if "\0" in value else None
    inside: Iterable[tuple[Any, str]] = ()
    if isinstance(value, msgspec.Struct):
        info = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        inside = ((getattr(value, name), _below(path, wire_name)) for wire_name, name in info)
    elif isinstance(value, (list, tuple)):
        inside = ((item, f"{path}[{index}]") for index, item in enumerate(value))
    elif isinstance(value, dict):
        names = ((name, path) for name in value)
        inside = (*names, *((item, _below(path, name)) for name, item in value.items()))
    found = (_nul_at(item, where) for item, where in inside)
    return next((where for where in found if where is not None), None)

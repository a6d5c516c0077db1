"""What a client asks for in the query of `/terminal`."""

from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from protocol import params
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import DEFAULT_NAME, WORK, Columns, Mode, Profile, Rows, SandboxName
from protocol.methods import terminal
from protocol.methods.registry import Params

_OF_A_START: Final = frozenset(("cmd", "cwd", "name", "sandbox", "network"))


class Wanted(Params, frozen=True, kw_only=True):
    """The query. Without `terminalId` a program is started, as by `terminal.spawn`."""

    terminal_id: terminal.TerminalId | None = None
    from_byte: terminal.Position | None = None
    cols: Columns | None = None
    rows: Rows | None = None
    cmd: str | None = None
    cwd: str = WORK
    name: SandboxName = DEFAULT_NAME
    sandbox: Mode | None = None
    network: Profile | None = None


def read_query(query: str) -> Wanted:
    """Read what is asked for.

    Raises:
        GatewayError: INVALID_REQUEST, naming the parameter.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    given: dict[str, Any] = dict(pairs)
    try:
        if len(given) < len(pairs):
            raise invalid("query", "each parameter can be given once")
        wanted = msgspec.convert(given, Wanted, strict=False)
    except msgspec.ValidationError as error:
        path, reason = params.explain(str(error))
        raise invalid(path or "query", reason) from None
    if wanted.terminal_id is not None and _OF_A_START & given.keys():
        raise invalid("terminalId", "what it runs was said when it was started")
    if wanted.terminal_id is None and wanted.from_byte is not None:
        raise invalid("fromByte", "is for a terminalId")
    if (wanted.cols is None) != (wanted.rows is None):
        raise invalid("cols", "comes with rows")
    return wanted


def invalid(field: str, reason: str) -> GatewayError:
    """Give the refusal of what a client says."""
    shown = params.printable(field, params.NAME_CHARS_SHOWN)
    message = f"{shown}: {params.printable(reason, params.REASON_CHARS_SHOWN)}"
    return GatewayError(ErrorCode.INVALID_REQUEST, message, field=shown)

"""Exit codes, and how a command says that it failed."""

from enum import IntEnum
from typing import NoReturn

import click

from protocol.errors import GatewayError


class ExitCode(IntEnum):
    """What a caller can act on; 0 is success, 2 is click's own for a wrong command line."""

    FAILED = 1
    WOULD_FAIL_AGAIN = 3
    TRY_LATER = 75
    CONFIGURATION = 78


def fail(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Say on standard error what is wrong, and exit."""
    click.echo(f"openclaw: {message}", err=True)
    raise SystemExit(code)


def refuse(error: GatewayError) -> NoReturn:
    """Say on standard error what was refused, and exit."""
    fail(error.message, ExitCode.TRY_LATER if error.code.retryable else ExitCode.FAILED)

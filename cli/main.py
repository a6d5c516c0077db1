"""`openclaw`: the command line.

Commands are imported when they are used, since most calls are short and start-up is most of them.
"""

import importlib
import io
import sys
from typing import Final

import click

_COMMANDS: Final = {
    "audit": ("cli.audit", "Read and check the audit."),
    "billing": ("cli.billing", "Report what tenants have used and what it cost."),
    "chat": ("cli.chat", "Talk to a tenant's agent."),
    "config": ("cli.config", "Check the configuration."),
    "doctor": ("cli.doctor", "Say what keeps tenants apart on this machine."),
    "gateway": ("cli.gateway", "Run the gateway in the foreground."),
    "logs": ("cli.logs", "Print the gateway's log."),
    "sandbox": ("cli.sandbox", "Run programs in a tenant's sandboxes, and see what runs."),
    "terminal": ("cli.terminal", "Work in a tenant's sandbox, with a terminal."),
    "top": ("cli.top", "Show the tenants at work, busiest first."),
    "tenants": ("cli.tenants", "Create, show and remove tenants."),
}


class LazyGroup(click.Group):
    """A group whose commands are modules with an attribute `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group`; the summaries are known without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openclawmu", prog_name="openclaw")
def main() -> None:
    """One gateway, many tenants who do not trust each other.

    The state directory is OPENCLAW_STATE_DIR, else /var/lib/openclaw for root and ~/.openclaw for
    a user.
    """
    # A terminal that cannot show a ✓ must not cost the token that is printed below it.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

"""`openclaw doctor`: what keeps tenants apart on this machine, step by step."""

import click
import msgspec

from cli.exits import ExitCode, fail
from supervisor import checkup, isolation
from supervisor import config as gateway_config
from supervisor.caps import report as caps
from supervisor.state import StateError, StateRoot, default_root


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say for each step of the jail whether it holds here, and what is lost without it.

    The exit code is 78 where the gateway would refuse to start.
    """
    try:
        state = StateRoot(default_root())
        config = gateway_config.load(state.config)
    except (gateway_config.ConfigError, StateError) as error:
        fail(str(error), ExitCode.CONFIGURATION)
    try:
        report, caps_report = isolation.look(config.isolation), caps.look(config.caps.cgroup)
        surroundings = [*checkup.surroundings(report), checkup.caps(caps_report)]
        surroundings += [checkup.egress(report), *checkup.models(config)]
        checks = [*surroundings, *checkup.docker(config.sandbox), *checkup.steps(report)]
    except OSError as error:
        fail(f"cannot be examined: {error}", ExitCode.CONFIGURATION)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(checks)).decode())
    else:
        for check in checks:
            _print(check)
        click.echo(f"\n{report.summary()}\n{caps_report.summary()}")
    if report.missing and config.isolation.mode != "none":
        raise SystemExit(ExitCode.CONFIGURATION)


def _print(check: checkup.Check) -> None:
    detail = f" ({check.detail})" if check.detail else ""
    click.echo(f"{'✓' if check.holds else '✗'} {check.name:<22} {check.what}{detail}")
    if check.without:
        click.echo(f"  {'':<22} without it {check.without}")

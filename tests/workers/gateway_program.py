"""The gateway with the tests' zygote and other deadlines.

Run as `gateway_program.py <settings as JSON>`: `{"<module>": {"<constant>": <value>}}`. Those of
`protocol.limits` hold in the front too, which has its own program beside this one.
"""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from protocol import limits
from tests.workers.front_program import set_constants

HERE = Path(__file__).resolve().parent
LIMITS = limits.__name__


def main() -> None:
    settings: dict[str, dict[str, float]] = json.loads(sys.argv[1])
    # Before the others are imported: some take a limit over into a constant of their own.
    set_constants(limits, settings.get(LIMITS, {}))
    for name, values in settings.items():
        set_constants(importlib.import_module(name), values)

    from supervisor import config as gateway_config
    from supervisor import front_process, isolation
    from supervisor.caps import report as caps
    from supervisor.child import FIRST_DESCRIPTOR
    from supervisor.logs import open_log
    from supervisor.main import Reports, Supervisor
    from supervisor.state import LOCK_WAIT_SECONDS, StateRoot, default_root
    from supervisor.zygote.main import command

    os.umask(0o077)
    state = StateRoot(default_root())

    def read_config() -> gateway_config.Config:
        return gateway_config.load(state.config, port=0)

    config = read_config()
    state.prepare()
    own_limits = json.dumps(settings.get(LIMITS, {}))
    setattr(  # noqa: B010 - it is final for everybody else
        front_process,
        "COMMAND",
        ("-I", str(HERE / "front_program.py"), own_limits),
    )
    zygote = ["-I", str(HERE / "zygote_program.py"), *command(FIRST_DESCRIPTOR)[3:]]

    async def serve() -> None:
        log = open_log(state.log)
        supervisor = Supervisor(state, lock, config, read_config, reports, log, zygote)
        await supervisor.serve(
            lambda url: print(f"openclaw gateway · {url} · test", flush=True)  # noqa: T201
        )

    with (
        state.acquire(LOCK_WAIT_SECONDS) as lock,
        caps.hold(config.caps.cgroup, state.path) as caps_report,
    ):
        reports = Reports(isolation.examine(config.isolation), caps_report)
        asyncio.run(serve())


if __name__ == "__main__":
    main()

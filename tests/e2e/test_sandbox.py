"""A program that a tenant runs goes by its worker and the launcher into a sandbox of its own."""

import os

from tests.e2e.gateway import Gateway


def test_a_program_runs_apart(gateway: Gateway) -> None:
    token = gateway.create("acme")
    ran = gateway.rpc(
        token,
        "sandbox.run",
        argv=["/bin/sh", "-c", "cat; id -u; pwd; ls -a /; echo problem >&2; exit 3"],
        stdin="from outside\n",
    )
    assert ran["exitCode"] == 3, ran
    assert ran["signal"] is None
    lines = ran["stdout"].splitlines()
    assert lines[0] == "from outside"
    assert int(lines[1]) != 0 or os.geteuid() == 0
    assert lines[2] == "/work"
    assert "tenants" not in ran["stdout"]
    assert ran["stderr"] == "problem\n"
    assert ran["mode"] == "bubblewrap"

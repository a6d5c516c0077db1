import msgspec
import pytest

from supervisor.config import Config, DockerSection, GatewaySection, TlsSection
from supervisor.config_models import ModelSection, ProviderSection
from supervisor.reload import LIVE, compare

OTHER: dict[str, object] = {
    "gateway.host": "::1",
    "gateway.port": 1,
    "gateway.tls": TlsSection(certificate="/other.pem", key="/other.key"),
    "gateway.expose_without_tls": True,
    "gateway.allowed_hosts": ("gw.example.org",),
    "gateway.allowed_origins": ("https://page.example.org",),
    "gateway.trusted_proxies": ("10.0.0.1",),
    "gateway.connections_per_address": 7,
    "isolation.mode": "none",
    "isolation.uid_first": 70_000,
    "isolation.uid_count": 2048,
    "worker.idle_seconds": 1.5,
    "worker.memory_bytes": 2**28,
    "sandbox.mode": "docker",
    "sandbox.allowed": ("bubblewrap", "docker", "docker"),
    "sandbox.docker": DockerSection(warm=2),
    "sandbox.memory_bytes": 2**28,
    "sandbox.cpus": 0.5,
    "sandbox.pids": 64,
    "sandbox.file_bytes": 2**20,
    "sandbox.wall_seconds": 5.0,
    "sandbox.concurrent": 2,
    "sandbox.queued": 2,
    "sandbox.terminals": 2,
    "sandbox.terminal_idle_seconds": 60.0,
    "caps.cgroup": "none",
    "caps.memory_bytes": 2**28,
    "caps.cpus": 0.5,
    "caps.pids": 64,
    "caps.disk_bytes": 2**28,
    "caps.disk_inodes": 1000,
    "caps.disk_floor_bytes": 2**20,
    "alerts.command": ("/bin/true",),
    "sandbox.network": {"packages": ("pypi.org:443",)},
    "agents.model": "gpt",
    "agents.max_rounds": 3,
    "agents.max_tokens": 3,
    "agents.max_tool_calls": 3,
    "agents.max_seconds": 3.0,
    "billing.unpriced": "allow",
    "billing.rate_card": {"gpt": {"input": 1, "output": 2}},
    "billing.sandbox_second": 0.1,
    "billing.egress_gib": 0.1,
    "egress.allow_hosts": ("127.0.0.1:1",),
    "egress.fetch_hosts": ("example.org",),
    "egress.concurrent": 3,
    "egress.connect_seconds": 1.5,
    "egress.first_byte_seconds": 1.5,
    "egress.idle_seconds": 1.5,
    "egress.total_seconds": 1.5,
    "egress.own_keys": False,
    "egress.retries": 0,
}
NAMED = {"providers", "models"}
"""Sections of names that an operator gives."""
PROVIDERS = {"local": ProviderSection(type="openai", base_url="http://127.0.0.1:1/v1")}


PRESENT = Config(
    gateway=GatewaySection(tls=TlsSection(certificate="/c.pem", key="/c.key")),
    providers=PROVIDERS,
    models={"gpt": ModelSection(provider="local")},
)


def changed(*keys: str) -> Config:
    config = PRESENT
    for key in keys:
        section, field = key.split(".")
        part = msgspec.structs.replace(getattr(config, section), **{field: OTHER[key]})
        config = msgspec.structs.replace(config, **{section: part})
    return config


def test_every_key_is_known_here() -> None:
    config = Config()
    assert set(OTHER) == {
        f"{section}.{field}"
        for section in config.__struct_fields__
        if section not in NAMED
        for field in getattr(config, section).__struct_fields__
    } - {"billing.currency"}  # there is one
    assert set(OTHER) | NAMED >= LIVE


@pytest.mark.parametrize("key", OTHER)
def test_a_change_takes_effect_or_is_named(key: str) -> None:
    found = compare(PRESENT, changed(key))
    assert found.applied == ((key,) if key in LIVE else ())
    assert found.needs_restart == (() if key in LIVE else (key,))
    assert found.config == (changed(key) if key in LIVE else PRESENT)


def test_sections_of_names_change_as_a_whole() -> None:
    models = {"gpt": ModelSection(provider="other"), "more": ModelSection(provider="other")}
    providers = {"other": PROVIDERS["local"]}
    written = msgspec.structs.replace(PRESENT, providers=providers, models=models)
    found = compare(PRESENT, written)
    assert (set(found.applied), found.needs_restart) == (NAMED, ())
    assert found.config == written


@pytest.mark.parametrize("key", ["gateway.tls"])
def test_whether_the_port_speaks_tls_is_decided_at_the_start(key: str) -> None:
    plain = msgspec.structs.replace(PRESENT, gateway=GatewaySection())
    for before, after in ((plain, PRESENT), (PRESENT, plain)):
        found = compare(before, after)
        assert (found.applied, found.needs_restart) == ((), (key,))
        assert found.config == before


def test_what_needs_a_restart_is_named_again_and_what_is_in_force_is_not() -> None:
    written = changed(*OTHER)
    first = compare(PRESENT, written)
    assert set(first.applied) == LIVE - NAMED
    second = compare(first.config, written)
    assert second.applied == ()
    assert second.needs_restart == first.needs_restart
    assert compare(second.config, PRESENT).applied == first.applied

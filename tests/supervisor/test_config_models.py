"""The sections of the configuration about models: bad ones are refused by the key's name."""

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import Config, ConfigError, load

KEY = "sk-5ec4e7c0ffee"
LOCAL = {"type": "openai", "base_url": "http://127.0.0.1:11434/v1"}
GOOD: dict[str, Any] = {
    "providers": {
        "openai": {"type": "openai", "base_url": "https://api.openai.com/v1", "api_key": KEY},
        "local": LOCAL,
    },
    "models": {
        "gpt-4o": {
            "provider": "openai",
            "context_window": 128_000,
            "max_output_tokens": 16_384,
            "input": ["text", "image"],
            "fallbacks": ["small"],
        },
        "small": {"provider": "local", "upstream_model": "llama3.2"},
    },
    "agents": {"model": "gpt-4o"},
    "egress": {
        "allow_hosts": ["127.0.0.1:11434", "[::1]:80"],
        "fetch_hosts": ["*.wikipedia.org", "example.org:443"],
        "concurrent": 8,
    },
    "sandbox": {"network": {"packages": ["pypi.org:443"]}},
}


def load_tree(tmp_path: Path, tree: Any) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(tree))
    return load(file)


def test_what_the_record_shows_is_read(tmp_path: Path) -> None:
    config = load_tree(tmp_path, GOOD)
    key = config.providers["openai"].api_key
    assert key is not None
    assert key.text() == KEY
    assert config.providers["local"].api_key is None
    assert config.models["gpt-4o"].fallbacks == ("small",)
    assert config.models["small"].upstream_model == "llama3.2"
    assert config.agents.model == "gpt-4o"
    assert config.sandbox.network == {"packages": ("pypi.org:443",)}
    assert KEY not in repr(config)


def test_a_key_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = {"openai": {**LOCAL, "api_key": "${OPENCLAW_TEST_KEY}"}}
    monkeypatch.setenv("OPENCLAW_TEST_KEY", KEY)
    first = load_tree(tmp_path, {"providers": providers}).providers["openai"]
    assert first.api_key is not None
    assert first.api_key.text() == KEY
    # The same secret is the same configuration, another one is not.
    assert first == load_tree(tmp_path, {"providers": providers}).providers["openai"]
    monkeypatch.setenv("OPENCLAW_TEST_KEY", "another")
    assert first != load_tree(tmp_path, {"providers": providers}).providers["openai"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("${OPENCLAW_TEST_MISSING}", "environment variable OPENCLAW_TEST_MISSING is not set"),
        ("${OPENCLAW_TEST_EMPTY}", "environment variable OPENCLAW_TEST_EMPTY is not set"),
        ("", "a key is printable ASCII"),
        ("two\nlines", "a key is printable ASCII"),
        ("clé", "a key is printable ASCII"),
        ([KEY], "expected a string, got list"),
        ({KEY: KEY}, "expected a string, got dict"),
        (1, "expected a string, got int"),
    ],
)
def test_a_key_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, why: str
) -> None:
    monkeypatch.setenv("OPENCLAW_TEST_EMPTY", "")
    monkeypatch.delenv("OPENCLAW_TEST_MISSING", raising=False)
    with pytest.raises(ConfigError) as refusal:
        load_tree(tmp_path, {"providers": {"openai": {**LOCAL, "api_key": value}}})
    said = str(refusal.value)
    assert why.lower() in said.lower()
    assert "$.providers[...].api_key" in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("providers", [], "$.providers"),
        ("providers", {"Open AI": LOCAL}, "$.providers"),
        ("providers", {"builtin": LOCAL}, "providers.builtin"),
        ("providers", {"x": {**LOCAL, "type": "gemini"}}, "$.providers[...].type"),
        ("providers", {"x": {**LOCAL, "key": KEY}}, "`key`"),
        ("providers", {"x": {"type": "openai"}}, "`base_url`"),
        *(
            ("providers", {"x": {"type": "openai", "base_url": url}}, "base_url")
            for url in (
                "",
                "api.openai.com/v1",
                "ftp://example.org",
                "https://",
                "https://user:pw@example.org/v1",
                "https://example.org/v1?key=1",
                "https://example.org/v1#x",
                "https://example.org:0/v1",
                "https://example.org:99999/v1",
                "https://[::1/v1",
            )
        ),
        ("models", {"x y": {"provider": "local"}}, "$.models"),
        ("models", {"builtin/mine": {"provider": "local"}}, "models.builtin/mine"),
        ("models", {"openclaw:main": {"provider": "local"}}, "models.openclaw:main"),
        ("models", {"x": {}}, "`provider`"),
        ("models", {"x": {"provider": "nobody"}}, "models.x.provider"),
        ("models", {"x": {"provider": "local", "fallbacks": ["y"]}}, "models.x.fallbacks"),
        ("models", {"x": {"provider": "local", "fallbacks": ["x"]}}, "models.x.fallbacks"),
        ("models", {"x": {"provider": "local", "input": []}}, "$.models[...].input"),
        ("models", {"x": {"provider": "local", "input": ["smell"]}}, "$.models[...].input"),
        ("models", {"x": {"provider": "local", "context_window": 0}}, "context_window"),
        ("models", {"x": {"provider": "local", "max_output_tokens": "many"}}, "max_output_tokens"),
        ("agents", {"model": "nothing"}, "agents.model"),
        ("agents", {"models": "x"}, "`models`"),
        ("egress", {"allow_hosts": ["127.0.0.1"]}, "$.egress.allow_hosts"),
        ("egress", {"allow_hosts": "127.0.0.1:80"}, "$.egress.allow_hosts"),
        ("egress", {"allow_hosts": ["http://x:80"]}, "$.egress.allow_hosts"),
        ("egress", {"fetch_hosts": ["*"]}, "$.egress.fetch_hosts"),
        ("egress", {"fetch_hosts": ["a.*.org"]}, "$.egress.fetch_hosts"),
        ("egress", {"concurrent": 0}, "$.egress.concurrent"),
        ("egress", {"idle_seconds": -1}, "$.egress.idle_seconds"),
        ("egress", {"retries": 1.5}, "$.egress.retries"),
        ("egress", {"proxy": "x"}, "`proxy`"),
        ("sandbox", {"network": {"packages": []}}, "$.sandbox.network"),
        ("sandbox", {"network": {"packages": ["pypi.org"]}}, "$.sandbox.network"),
        ("sandbox", {"network": {"Packages!": ["pypi.org:443"]}}, "$.sandbox.network"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    tmp_path: Path, section: str, value: Any, named: str
) -> None:
    tree = {"providers": {"local": LOCAL}, section: value}
    with pytest.raises(ConfigError) as refusal:
        load_tree(tmp_path, tree)
    assert named in str(refusal.value)
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize(
    "text", [f"providers: {{x: {{api_key: {KEY}", f"{KEY}: [", f"? {KEY}\n- a"]
)
def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path / "config.yaml")
    assert KEY not in str(refusal.value)

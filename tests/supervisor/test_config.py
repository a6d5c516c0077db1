import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import CONFIG_BYTES_MAX, Config, ConfigError, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_a_file_that_is_not_there_means_all_defaults(file: Path) -> None:
    config = load(file)
    assert (config.gateway.host, config.gateway.port) == ("127.0.0.1", 18789)
    assert config.gateway.allowed_hosts == ()
    assert config.isolation.mode == "required"
    assert config.isolation.uid_first == 1_900_000_000


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n", "{}", "null", "\ufeff"])
def test_an_empty_file_means_all_defaults(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file) == Config()


TREE = {
    "gateway": {"host": "::1", "port": 0, "allowed_hosts": ["gw.example.org", "10.0.0.1"]},
    "isolation": {"mode": "none", "uid_first": 65536, "uid_count": 1024},
}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TREE),
        json.dumps(TREE, indent="\t"),
        """
        gateway:
          host: "::1"
          port: 0
          allowed_hosts: [gw.example.org, 10.0.0.1]
        isolation: {mode: none, uid_first: 65_536, uid_count: 1024}
        """,
    ],
    ids=["json", "json with tabs", "yaml"],
)
def test_yaml_and_json_say_the_same(file: Path, text: str) -> None:
    file.write_text(text)
    config = load(file)
    assert config.gateway.host == "::1"
    assert config.gateway.port == 0
    assert config.gateway.allowed_hosts == ("gw.example.org", "10.0.0.1")
    assert config.isolation.mode == "none"
    assert (config.isolation.uid_first, config.isolation.uid_count) == (65536, 1024)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # unknown keys, with the path
        ("gatway: {}", "`gatway`"),
        ("gateway: {prot: 1}", "`prot` - at `$.gateway`"),
        ('{"isolation": {"uid": 1}}', "`uid` - at `$.isolation`"),
        # hosts that egress would refuse
        ('egress: {allow_hosts: ["127.1:80"]}', "allow_hosts: 127.1: is a number"),
        ('egress: {allow_hosts: ["a.test:99999"]}', "must be host:port"),
        ('egress: {fetch_hosts: ["*.2130706433"]}', "fetch_hosts: 2130706433: is a number"),
        # types
        ("[]", "array"),
        ("gateway", "str"),
        ("42", "int"),
        ("gateway: 1", "$.gateway"),
        ("gateway: null", "$.gateway"),
        ("gateway: {port: '1'}", "$.gateway.port"),
        ("gateway: {port: 1.5}", "$.gateway.port"),
        ("gateway: {port: true}", "$.gateway.port"),
        ("gateway: {port: 2020-01-01}", "$.gateway.port"),
        ("gateway: {allowed_hosts: gw}", "$.gateway.allowed_hosts"),
        ("gateway: {allowed_hosts: [1]}", "$.gateway.allowed_hosts[0]"),
        ("1: 2", "key"),
        # bounds
        ("gateway: {port: -1}", "$.gateway.port"),
        ("gateway: {port: 65536}", "$.gateway.port"),
        ("gateway: {port: " + "9" * 5000 + "}", "config.yaml: "),
        ("gateway: {host: 0.0.0.0}", "expose_without_tls: true"),
        ("gateway: {host: gw.example.org}", "host: 'gw.example.org' does not appear to be"),
        ("gateway: {host: 0.0.0.0, expose_without_tls: 1}", "$.gateway.expose_without_tls"),
        ("gateway: {tls: {certificate: /c.pem}}", "$.gateway.tls"),
        ("gateway: {tls: {certificate: c.pem, key: /k.pem}}", "$.gateway.tls.certificate"),
        ("gateway: {trusted_proxies: [10.0.0.1/8]}", "trusted_proxies: 10.0.0.1/8 has host bits"),
        ("gateway: {trusted_proxies: [proxy]}", "trusted_proxies: 'proxy' does not appear to be"),
        ("gateway: {allowed_origins: ['*']}", "$.gateway.allowed_origins[0]"),
        ("gateway: {allowed_origins: ['https://a.example/']}", "$.gateway.allowed_origins[0]"),
        ("gateway: {connections_per_address: 0}", "$.gateway.connections_per_address"),
        ("gateway: {allowed_hosts: ['']}", "$.gateway.allowed_hosts[0]"),
        ("gateway: {allowed_hosts: [GW]}", "$.gateway.allowed_hosts[0]"),
        ('gateway: {allowed_hosts: ["gw\\n"]}', "$.gateway.allowed_hosts[0]"),
        ("gateway: {allowed_hosts: [" + "a" * 254 + "]}", "$.gateway.allowed_hosts[0]"),
        ("gateway: {allowed_hosts: [" + "a, " * 65 + "]}", "$.gateway.allowed_hosts"),
        ("isolation: {mode: off}", "$.isolation.mode"),
        ("isolation: {uid_first: 0}", "$.isolation.uid_first"),
        ("isolation: {uid_first: 65535}", "$.isolation.uid_first"),
        ("isolation: {uid_first: 2147483648}", "$.isolation.uid_first"),
        ("isolation: {uid_count: 1023}", "$.isolation.uid_count"),
        ("isolation: {uid_first: 2147483647, uid_count: 1024}", "uid_first + uid_count"),
        # neither YAML nor JSON, or more than is taken
        ("gateway: {", "line 1"),
        ("\tgateway: {}", "line 1"),
        ("a: 1\n--- \nb: 2", "single document"),
        ("gateway: {port: 1}\ngateway: {port: 2}", "a key is there twice"),
        ("gateway: {port: 1, port: 1}", "a key is there twice"),
        ("a: &a {}\ngateway: *a", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: \x01", "not allowed"),
        ("a: !!python/object/apply:os.getpid []", "constructor for the tag, line 1"),
        ("? {a: b}\n: c", "unhashable"),
        ("a: 2020-99-99", "its form or tag says, line 1, column 4"),
        ("a: !!timestamp x", "config.yaml: "),
        ("a: !!bool perhaps", "its form or tag says, line 1, column 4"),
        ("a: !!int ''", "config.yaml: "),
        ("[" * 50_000, "recursion"),
        ('{"a":' * 50_000, "recursion"),
    ],
)
def test_what_is_wrong_is_named(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert said in message


def test_what_is_not_utf8_is_refused(file: Path) -> None:
    for text in (b"gateway: \xff\xfe", b'{"gateway": "\xff"}', b"\xff\xfe\x00"):
        file.write_bytes(text)
        with pytest.raises(ConfigError, match=str(file)):
            load(file)


def test_what_is_too_large_is_refused_unread(file: Path) -> None:
    room = CONFIG_BYTES_MAX - len("{}\n# ")
    file.write_text("{}\n# " + "x" * room)
    assert load(file) == Config()
    file.write_text("{}\n# " + "x" * (room + 1))
    with pytest.raises(ConfigError, match=f"over {CONFIG_BYTES_MAX} bytes"):
        load(file)
    with pytest.raises(ConfigError, match="over"):
        load(Path("/dev/zero"))


def test_what_is_no_file_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file / ("\u00e9" * 200))


def test_merged_aliases_cannot_fill_the_memory(file: Path) -> None:
    # Taken as YAML has it, this is nine to the seventh power of pairs: gigabytes.
    rows = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 8)]
    file.write_text("\n".join(["a0: &a0 {x: 1, y: 2}", *rows]))
    with pytest.raises(ConfigError, match="aliases are not taken here"):
        load(file)


scalars = st.sampled_from(
    ["!!int", "!!bool", "!!timestamp", "!!float", "!!binary", "!!set", "&a", "*a", "<<", "0x", "~"]
)
pieces = scalars | st.sampled_from(list("{}[]:,-?|>'\"#%\n \t")) | st.text(max_size=8)


@given(st.lists(pieces, max_size=30).map(" ".join).map(str.encode) | st.binary(max_size=100))
def test_whatever_is_in_it_is_a_config_or_a_config_error(text: bytes) -> None:
    # A file without a folder: hypothesis runs many examples inside one fixture.
    descriptor = os.memfd_create("config")
    os.write(descriptor, text)
    path = Path("/proc/self/fd") / str(descriptor)
    refusal = f"{path}: "
    try:
        assert isinstance(load(path), Config)
    except ConfigError as error:
        refusal = str(error)
    finally:
        os.close(descriptor)
    assert refusal.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {host: 0.0.0.0, tls: {certificate: /c.pem, key: /k.pem}}",
        "gateway: {host: '::', expose_without_tls: true}",
        "gateway: {host: 127.0.0.2}",
    ],
)
def test_a_network_may_reach_it_with_tls_or_in_so_many_words(file: Path, text: str) -> None:
    file.write_text(text)
    load(file)

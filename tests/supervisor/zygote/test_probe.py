"""What holds here, and what the minimum is."""

import pytest

from supervisor.zygote import probe, roots
from tests.attack import harness

GOOD = probe.Probe(root=True, landlock_abi=7, namespaces=None, seccomp=None, identity=None)
NO = "[Errno 1] clone: Operation not permitted"


def changed(**fields: object) -> probe.Probe:
    values = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__}
    return probe.Probe(**(values | fields))


def test_this_machine_can_keep_tenants_apart() -> None:
    found = probe.probe(harness.UID_FIRST, harness.UID_FIRST)
    assert found.root is harness.ROOT
    assert (found.namespaces, found.seccomp, found.identity) == (None, None, None)
    assert probe.missing_minimum(found) == []


@pytest.mark.root
def test_what_cannot_be_had_comes_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.probe(-2, -2).identity is not None
    monkeypatch.setattr(roots, "readable_paths", lambda: ("/openclaw-missing",))
    refused = probe.probe(harness.UID_FIRST, harness.UID_FIRST).namespaces
    assert refused is not None
    assert "/openclaw-missing" in refused


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, []),
        ({"landlock_abi": 0}, []),
        ({"namespaces": NO}, []),
        ({"namespaces": NO, "landlock_abi": 3}, []),
        ({"namespaces": NO, "landlock_abi": 2}, ["Landlock"]),
        ({"namespaces": NO, "landlock_abi": 0}, ["Landlock"]),
        ({"seccomp": "gone"}, ["seccomp"]),
        ({"identity": NO}, ["uid"]),
        ({"identity": NO, "seccomp": "gone"}, ["seccomp", "uid"]),
        ({"root": False}, []),
        ({"root": False, "landlock_abi": 0}, []),
        ({"root": False, "namespaces": NO}, ["Namespaces"]),
        ({"root": False, "seccomp": "gone"}, ["seccomp"]),
    ],
)
def test_the_minimum(fields: dict[str, object], named: list[str]) -> None:
    sentences = probe.missing_minimum(changed(**fields))
    assert len(sentences) == len(named)
    for sentence, name in zip(sentences, named, strict=True):
        assert name in sentence
        assert sentence.endswith(".")

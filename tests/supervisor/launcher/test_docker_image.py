"""What is in the image that is made of this machine."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from supervisor.launcher import docker_image


@pytest.fixture(scope="module")
def archive() -> Iterator[docker_image.Archive]:
    made = docker_image.build("any:base")
    with made.data:
        yield made


@pytest.fixture(scope="module")
def layer(archive: docker_image.Archive) -> dict[str, tarfile.TarInfo]:
    archive.data.seek(0)
    with tarfile.open(fileobj=archive.data) as outer:
        content = outer.extractfile("layer.tar")
        assert content is not None
        return {member.name: member for member in tarfile.open(fileobj=content)}


def found(layer: dict[str, tarfile.TarInfo], path: str) -> tarfile.TarInfo:
    """Follow a path as a kernel does."""
    for _ in range(40):
        parts = PurePosixPath(path.lstrip("/")).parts
        for number in range(1, len(parts) + 1):
            here = str(PurePosixPath(*parts[:number]))
            member = layer[here]
            if member.issym():
                target = PurePosixPath("/", here).parent / member.linkname
                path = os.path.normpath(target.joinpath(*parts[number:]))
                break
        else:
            return member
    raise AssertionError(path)


@pytest.mark.parametrize(
    "program", ["/bin/sh", "/bin/bash", "/bin/ls", "/usr/bin/env", "/bin/sleep", "/bin/python3"]
)
def test_programs_are_there(layer: dict[str, tarfile.TarInfo], program: str) -> None:
    member = found(layer, program)
    assert member.isfile()
    assert member.mode == 0o755


def test_every_link_leads_somewhere(layer: dict[str, tarfile.TarInfo]) -> None:
    links = [name for name, member in layer.items() if member.issym()]
    assert links
    for name in links:
        found(layer, name)


def test_everything_is_roots_and_nothing_gives_privileges(
    layer: dict[str, tarfile.TarInfo],
) -> None:
    for member in layer.values():
        assert (member.uid, member.gid) == (0, 0)
        assert not member.mode & 0o6000, member.name
        assert member.isfile() or member.issym() or member.isdir(), member.name
        writable = member.mode & 0o022 and not member.issym()
        assert not writable or member.name in ("run", "tmp", "var/tmp"), member.name


def test_parents_come_before_what_is_in_them(layer: dict[str, tarfile.TarInfo]) -> None:
    seen = {"."}
    for name in layer:
        assert str(PurePosixPath(name).parent) in seen
        seen.add(name)


def test_the_same_machine_gives_the_same_image(archive: docker_image.Archive) -> None:
    again = docker_image.build("other:base")
    with again.data:
        assert again.image_id == archive.image_id
        with tarfile.open(fileobj=again.data) as outer:
            manifest = outer.extractfile("manifest.json")
            assert manifest is not None
            assert json.load(manifest)[0]["RepoTags"] == ["other:base"]


def test_a_machine_without_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_image, "PATH", "/nowhere")
    with pytest.raises(docker_image.ImageError, match="not on this machine: sh, bash"):
        docker_image.build("any:base")

"""`sandbox.files.*`: what lies in a sandbox, whatever has put it there."""

import base64
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.errors import ErrorCode
from tests.worker.harness import Front, names, running_worker
from worker.sandbox import tree

EVERY_BYTE = bytes(range(256))


@pytest.fixture
def work(tenant_dir: Path) -> Path:
    """The directory that is at /work in the sandbox `main`."""
    path = tenant_dir / "sandbox" / "main"
    path.mkdir(mode=0o700, parents=True)
    return path


@pytest.fixture
async def front(work: Path) -> AsyncIterator[Front]:
    async with running_worker() as rig:
        yield rig.front


@pytest.fixture
def outside(tenant_dir: Path) -> Path:
    """Files of the tenant's that are in no sandbox."""
    folder = tenant_dir / "sessions"
    folder.mkdir()
    (folder / "secret").write_text("not for the sandbox")
    return folder


async def ask(front: Front, verb: str, **params: Any) -> Any:
    return await front.call(f"sandbox.files.{verb}", params)


async def field_refused(front: Front, verb: str, **params: Any) -> tuple[ErrorCode, str]:
    error = await front.refused(f"sandbox.files.{verb}", params)
    field: str = error.details["field"]
    assert error.message.startswith(f"{field}: ") or f"$.{field}: " in error.message
    return error.code, field


# --- reading and writing


async def test_what_is_put_is_got_byte_by_byte(front: Front, work: Path) -> None:
    data = base64.b64encode(EVERY_BYTE).decode()
    put = await ask(front, "put", path="/work/plots/2027/chart.png", data=data, encoding="base64")
    assert (put["path"], put["size"]) == ("/work/plots/2027/chart.png", 256)
    assert (work / "plots/2027/chart.png").read_bytes() == EVERY_BYTE
    got = await ask(front, "get", path="plots/2027/chart.png", encoding="base64")
    assert base64.b64decode(got["data"]) == EVERY_BYTE
    assert (got["size"], got["eof"], got["mtimeMs"]) == (256, True, put["mtimeMs"])
    assert names(work / "plots/2027") == ["chart.png"]


async def test_text_is_unicode_and_nothing_else(front: Front, work: Path) -> None:
    await ask(front, "put", path="é", data="naïve ☃")
    assert (work / "é").read_text() == "naïve ☃"
    assert (await ask(front, "get", path="é"))["data"] == "naïve ☃"
    for data in (b"\xff", b"a\0b", b"caf\xc3"):
        (work / "binary").write_bytes(data)
        assert await field_refused(front, "get", path="binary") == (
            ErrorCode.INVALID_REQUEST,
            "encoding",
        )


async def test_ranges_make_the_whole_and_cut_no_character(front: Front, work: Path) -> None:
    text = "aé☃😀" * 50
    (work / "text").write_text(text)
    pieces, at = [], 0
    while True:
        got = await ask(front, "get", path="text", offset=at, length=7)
        pieces.append(got["data"])
        assert 4 <= got["length"] <= 7 or got["eof"]
        at += got["length"]
        if got["eof"]:
            break
    assert "".join(pieces) == text
    assert at == got["size"] == len(text.encode())
    beyond = await ask(front, "get", path="text", offset=10_000)
    assert (beyond["data"], beyond["length"], beyond["eof"]) == ("", 0, True)


async def test_sizes_are_bounded(front: Front, work: Path) -> None:
    most = limits.SANDBOX_FILE_BYTES_MAX
    with (work / "holes").open("wb") as file:
        file.truncate(2**40)
    got = await ask(front, "get", path="holes", encoding="base64", offset=2**39)
    assert (got["length"], got["size"], got["eof"]) == (most, 2**40, False)
    assert await field_refused(front, "get", path="holes", length=most + 1) == (
        ErrorCode.INVALID_REQUEST,
        "length",
    )
    await ask(front, "put", path="most", data="x" * most)
    for encoding, data in (
        ("text", "x" * (most + 1)),
        ("base64", base64.b64encode(bytes(most + 1)).decode()),
        ("text", "é" * (most // 2 + 1)),
    ):
        assert await field_refused(front, "put", path="more", data=data, encoding=encoding) == (
            ErrorCode.INVALID_REQUEST,
            "data",
        )
    assert names(work) == ["holes", "most"]


async def test_a_file_is_replaced_as_a_whole_or_kept(front: Front, work: Path) -> None:
    await ask(front, "put", path="run", data="one", executable=True)
    assert stat.S_IMODE((work / "run").stat().st_mode) == 0o700
    with (work / "run").open("rb") as reader:
        await ask(front, "put", path="run", data="another")
        assert reader.read() == b"one"
    assert (work / "run").read_text() == "another"
    assert stat.S_IMODE((work / "run").stat().st_mode) == 0o600
    conflict = await field_refused(front, "put", path="run", data="third", overwrite=False)
    assert conflict == (ErrorCode.CONFLICT, "path")
    assert (work / "run").read_text() == "another"
    assert names(work) == ["run"]


async def test_what_is_longer_than_a_call_comes_in_pieces(front: Front, work: Path) -> None:
    await ask(front, "put", path="log", data="one\n")
    done = await ask(front, "put", path="log", data="two\n", offset=4)
    assert done["size"] == 8
    again = await ask(front, "put", path="log", data="two\n", offset=4)
    assert (again["size"], (work / "log").read_text()) == (8, "one\ntwo\n")
    await ask(front, "put", path="log", data="O", offset=0)
    assert (work / "log").read_text() == "One\ntwo\n"
    (work / "folder").mkdir()
    (work / "link").symlink_to("log")
    os.mkfifo(work / "pipe")
    for path, more, refused in (
        ("log", {"offset": 9}, (ErrorCode.CONFLICT, "path")),
        ("none", {"offset": 0}, (ErrorCode.NOT_FOUND, "path")),
        ("folder", {"offset": 0}, (ErrorCode.CONFLICT, "path")),
        ("pipe", {"offset": 0}, (ErrorCode.CONFLICT, "path")),
        ("link", {"offset": 0}, (ErrorCode.INVALID_REQUEST, "path")),
        ("log", {"offset": 0, "executable": True}, (ErrorCode.INVALID_REQUEST, "offset")),
        ("log", {"offset": 0, "overwrite": False}, (ErrorCode.INVALID_REQUEST, "offset")),
        ("log", {"offset": -1}, (ErrorCode.INVALID_REQUEST, "offset")),
        ("log", {"offset": 0, "name": "none"}, (ErrorCode.NOT_FOUND, "name")),
    ):
        assert await field_refused(front, "put", path=path, data="x", **more) == refused
    assert (work / "log").read_text() == "One\ntwo\n"


async def test_a_sandbox_is_made_by_what_is_put_there(front: Front, tenant_dir: Path) -> None:
    assert await field_refused(front, "list", name="new") == (ErrorCode.NOT_FOUND, "name")
    assert await field_refused(front, "put", name="new", path="a", data="!", encoding="base64") == (
        ErrorCode.INVALID_REQUEST,
        "data",
    )
    assert names(tenant_dir / "sandbox") == ["main"]
    await ask(front, "put", name="new", path="a", data="x")
    assert (tenant_dir / "sandbox/new/a").read_text() == "x"


# --- listing


async def test_listing_tells_what_everything_is(front: Front, work: Path) -> None:
    (work / "file").write_text("12345")
    (work / "tool").touch(mode=0o755)
    (work / "folder").mkdir()
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    os.close(os.open(os.fsencode(work) + b"/b\xffd", os.O_CREAT))
    os.utime(work / "file", ns=(0, 1_234_567_890))
    listed = await ask(front, "list")
    told = {entry.pop("name"): entry for entry in listed["entries"]}
    assert listed["path"] == "/work"
    assert told["file"] == {"type": "file", "size": 5, "mtimeMs": 1234}
    assert told["tool"]["executable"]
    assert told["folder"]["type"] == "directory"
    assert (told["link"]["type"], told["link"]["target"]) == ("link", "/etc/passwd")
    assert told["pipe"]["type"] == "other"
    assert told["b\ufffdd"]["reachable"] is False
    assert len(told) == 6


async def test_pages_follow_each_other(front: Front, work: Path) -> None:
    (work / "many").mkdir()
    expected = sorted((f"n{number}é".encode() for number in range(25)), reverse=False)
    for name in expected:
        os.close(os.open(os.fsencode(work / "many") + b"/" + name, os.O_CREAT))
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = await ask(front, "list", path="many", limit=10, **more)
        seen += [entry["name"] for entry in page["entries"]]
        if "next" not in page:
            break
        # What comes and goes between pages moves nothing else.
        (work / "many" / seen[-1]).unlink()
        more = {"cursor": page["next"]}
    assert [name.encode() for name in seen] == expected
    assert await field_refused(front, "list", path="many", cursor="a") == (
        ErrorCode.INVALID_REQUEST,
        "cursor",
    )


async def test_a_listing_is_bounded(
    front: Front, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SANDBOX_FILES_LISTED_MAX", 3)
    for name in "abc":
        (work / name).touch()
    assert len((await ask(front, "list"))["entries"]) == 3
    (work / "d").touch()
    assert await field_refused(front, "list") == (ErrorCode.PAYLOAD_TOO_LARGE, "path")


# --- deleting


async def test_delete_takes_what_it_is_told_to(front: Front, work: Path, outside: Path) -> None:
    (work / "a/b/c").mkdir(parents=True)
    (work / "a/b/file").touch()
    (work / "a/link").symlink_to(outside)
    (work / "empty").mkdir()
    assert await ask(front, "delete", path="empty") == {"deleted": 1, "done": True}
    assert await field_refused(front, "delete", path="a") == (ErrorCode.CONFLICT, "path")
    assert (work / "a/b/file").exists()
    done = await ask(front, "delete", path="a", recursive=True)
    assert done == {"deleted": 5, "done": True}
    assert await field_refused(front, "delete", path="a") == (ErrorCode.NOT_FOUND, "path")
    assert names(outside) == ["secret"]


async def test_the_sandbox_itself_is_emptied_and_stays(front: Front, work: Path) -> None:
    (work / "a").mkdir()
    (work / "b").touch()
    assert await field_refused(front, "delete", path="/work") == (ErrorCode.CONFLICT, "path")
    done = await ask(front, "delete", path="/work", recursive=True)
    assert (done["deleted"], names(work)) == (2, [])


async def test_deletion_is_bounded_and_goes_on(
    front: Front, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SANDBOX_FILES_DELETED_MAX", 10)
    for folder in ("x/a", "x/b"):
        (work / folder).mkdir(parents=True)
        for number in range(8):
            (work / folder / str(number)).touch()
    counts = []
    while True:
        done = await ask(front, "delete", path="x", recursive=True)
        counts.append(done["deleted"])
        if done["done"]:
            break
    assert (counts, names(work)) == ([10, 9], [])


async def test_what_is_nested_too_deeply_is_not_walked(front: Front, work: Path) -> None:
    deep = work.joinpath("top", *["d"] * limits.SANDBOX_FILES_DEPTH_MAX)
    deep.mkdir(parents=True)
    refused = await field_refused(front, "delete", path="top", recursive=True)
    assert refused == (ErrorCode.PAYLOAD_TOO_LARGE, "path")
    assert deep.is_dir()
    just = work.joinpath("fits", *["d"] * (limits.SANDBOX_FILES_DEPTH_MAX - 1))
    just.mkdir(parents=True)
    assert (await ask(front, "delete", path="fits", recursive=True))["done"]


# --- what is hostile


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../main/x", "a/../../../sessions/secret", "/etc/passwd", "/", "//work/x"),
        *("/work/", "/work//x", "/workx", "/work/../x", "a/", "a//b", "./a", "a/.", "a\0b"),
        *("x" * 256, "é" * 128, "/".join(["d"] * 65), "a/" * 2500),
    ],
    ids=lambda path: repr(path)[:24],
)
@pytest.mark.parametrize("verb", ["list", "get", "put", "delete"])
async def test_paths_that_are_not_plain(
    front: Front, work: Path, outside: Path, verb: str, path: str
) -> None:
    data = {"data": "x"} if verb == "put" else {}
    refused = await field_refused(front, verb, path=path, **data)
    assert refused == (ErrorCode.INVALID_REQUEST, "path")
    assert names(work) == []
    assert (outside / "secret").read_text() == "not for the sandbox"


@pytest.mark.parametrize("name", ["", ".", "..", "../sessions", "a/b", "A", "-a", "a" * 41, "a\n"])
@pytest.mark.parametrize("verb", ["list", "get", "put", "delete"])
async def test_names_of_sandboxes_are_no_paths(
    front: Front, tenant_dir: Path, verb: str, name: str
) -> None:
    data = {"data": "x"} if verb == "put" else {}
    refused = await field_refused(front, verb, name=name, path="secret", **data)
    assert refused == (ErrorCode.INVALID_REQUEST, "name")
    assert names(tenant_dir / "sandbox") == ["main"]


async def test_links_are_shown_and_never_followed(front: Front, work: Path, outside: Path) -> None:
    (work / "file").symlink_to(outside / "secret")
    (work / "folder").symlink_to(outside)
    (work / "inner").symlink_to("mine")
    (work / "mine").mkdir()
    for path in ("file", "folder/secret", "inner/x"):
        refused = await field_refused(front, "get", path=path)
        assert refused == (ErrorCode.INVALID_REQUEST, "path")
    for verb, path in (("list", "folder"), ("put", "folder/new"), ("delete", "folder/secret")):
        data = {"data": "x"} if verb == "put" else {}
        refused = await field_refused(front, verb, path=path, **data)
        assert refused == (ErrorCode.INVALID_REQUEST, "path")
    await ask(front, "put", path="file", data="mine")
    assert (work / "file").read_text() == "mine"
    assert not (work / "file").is_symlink()
    await ask(front, "delete", path="folder", recursive=True)
    assert (outside / "secret").read_text() == "not for the sandbox"


async def test_the_sandboxs_directory_may_be_no_link(
    front: Front, tenant_dir: Path, outside: Path
) -> None:
    (tenant_dir / "sandbox" / "other").symlink_to(outside)
    for verb, params in (
        ("list", {}),
        ("get", {"path": "secret"}),
        ("put", {"path": "secret", "data": "x"}),
        ("delete", {"path": "secret"}),
    ):
        refused = await field_refused(front, verb, name="other", **params)
        assert refused == (ErrorCode.CONFLICT, "name")
    assert (outside / "secret").read_text() == "not for the sandbox"
    (tenant_dir / "sandbox").rename(tenant_dir / "elsewhere")
    (tenant_dir / "sandbox").symlink_to("elsewhere")
    assert await field_refused(front, "list") == (ErrorCode.CONFLICT, "name")


async def test_what_is_no_file_is_not_read_and_does_not_hang(front: Front, work: Path) -> None:
    os.mkfifo(work / "pipe")
    (work / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(work / "socket"))
        before = len(names(Path("/proc/self/fd")))
        for path in ("pipe", "folder", "socket"):
            assert await field_refused(front, "get", path=path) == (ErrorCode.CONFLICT, "path")
        for path in ("folder", "pipe/x"):
            refused = await field_refused(front, "put", path=path, data="x")
            assert refused == (ErrorCode.CONFLICT, "path")
        # It replaces a pipe by its name, and does not write into it.
        await ask(front, "put", path="pipe", data="x")
        assert len(names(Path("/proc/self/fd"))) == before
    assert (work / "pipe").read_text() == "x"


@pytest.mark.user
async def test_what_its_mode_closes_is_said_to_be_closed(front: Front, work: Path) -> None:
    (work / "closed").mkdir()
    (work / "closed/file").touch()
    (work / "file").touch(mode=0o000)
    (work / "closed").chmod(0o000)
    for verb, path in (("get", "file"), ("list", "closed"), ("delete", "closed")):
        more = {"recursive": True} if verb == "delete" else {}
        refused = await field_refused(front, verb, path=path, **more)
        assert refused == (ErrorCode.CONFLICT, "path")


async def test_names_that_change_meanwhile_lead_nowhere_else(
    front: Front, work: Path, outside: Path
) -> None:
    """A directory and a link to the outside change places all the time."""
    (work / "a").mkdir()
    (work / "a/secret").write_text("inside")
    (work / "b").symlink_to(outside)
    done = threading.Event()
    a, b = os.fsencode(work / "a"), os.fsencode(work / "b")
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not done.is_set():
            tree._renameat2(-100, a, -100, b, 2)  # AT_FDCWD, RENAME_EXCHANGE
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(200):
            for verb, more in (
                ("get", {"path": "a/secret"}),
                ("put", {"path": "a/new", "data": "x"}),
                ("list", {"path": "a"}),
                ("delete", {"path": "a/new"}),
            ):
                try:
                    result = await front.call(f"sandbox.files.{verb}", more)
                except Exception as error:  # noqa: BLE001 - any refusal will do
                    outcomes.add(getattr(error, "code", error))
                else:
                    outcomes.add(verb)
                    assert verb != "get" or result["data"] == "inside"
    finally:
        done.set()
        thread.join()
    assert swaps > 200
    assert outcomes == {*("get", "put", "list", "delete"), *_refusals()}
    assert names(outside) == ["secret"]
    assert (outside / "secret").read_text() == "not for the sandbox"


def _refusals() -> set[ErrorCode]:
    return {ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND}

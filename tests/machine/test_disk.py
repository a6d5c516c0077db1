"""The disk that forgets, asked as qemu asks it."""

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.disk import SECTOR_BYTES, Disk

SECTORS = 64
GO = struct.pack(">8sIIIH", b"IHAVEOPT", 7, 6, 0, 0)
READ, WRITE, FLUSH = 0, 1, 3
FUA = 1


class Qemu:
    """A client of the block server."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rb")
        assert self._stream.read(18)[:16] == b"NBDMAGICIHAVEOPT"
        self._socket.sendall(struct.pack(">I", 1) + GO)
        info = self._stream.read(20 + 12)
        assert struct.unpack(">HQH", info[20:]) == (0, SECTORS * SECTOR_BYTES, 13)
        self._stream.read(20)

    def ask(self, kind: int, sector: int = 0, data: bytes = b"", flags: int = 0) -> bytes:
        size = len(data) if kind == WRITE else SECTOR_BYTES if kind == READ else 0
        head = (0x25609513, flags, kind, 7, sector * SECTOR_BYTES, size)
        self._socket.sendall(struct.pack(">IHHQQI", *head) + data)
        assert struct.unpack(">IIQ", self._stream.read(16)) == (0x67446698, 0, 7)
        return self._stream.read(size) if kind == READ else b""

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    path = tmp_path / "medium"
    path.write_bytes(bytes(SECTORS * SECTOR_BYTES))
    return path


@pytest.fixture
def disk(medium: Path) -> Iterator[Disk]:
    with Disk(medium, medium.with_name("nbd")) as opened:
        yield opened


@pytest.fixture
def qemu(disk: Disk, medium: Path) -> Iterator[Qemu]:
    client = Qemu(medium.with_name("nbd"))
    yield client
    client.close()


def sector(text: bytes) -> bytes:
    return text.ljust(SECTOR_BYTES, b".")


def test_what_was_written_is_read(qemu: Qemu) -> None:
    qemu.ask(WRITE, 3, sector(b"three") + sector(b"four"))
    assert qemu.ask(READ, 4) == sector(b"four")
    assert qemu.ask(READ, 5) == bytes(SECTOR_BYTES)


def test_what_was_flushed_is_on_the_medium(disk: Disk, qemu: Qemu, medium: Path) -> None:
    qemu.ask(WRITE, 1, sector(b"cached"))
    qemu.ask(WRITE, 2, sector(b"through"), FUA)
    assert medium.read_bytes()[SECTOR_BYTES : 3 * SECTOR_BYTES] == (
        bytes(SECTOR_BYTES) + sector(b"through")
    )
    qemu.ask(FLUSH)
    assert disk.lose_power(random.Random(1)) == (0, 0)
    assert medium.read_bytes()[SECTOR_BYTES:].startswith(sector(b"cached"))


def test_what_was_not_flushed_is_lost_by_the_sector(tmp_path: Path) -> None:
    kept = set()
    for seed in range(20):
        medium = tmp_path / f"medium{seed}"
        medium.write_bytes(bytes(SECTORS * SECTOR_BYTES))
        with Disk(medium, tmp_path / "nbd") as disk:
            qemu = Qemu(tmp_path / "nbd")
            qemu.ask(WRITE, 0, b"".join(sector(b"%d" % number) for number in range(SECTORS)))
            lost, unflushed = disk.lose_power(random.Random(seed))
            qemu.close()
        there = medium.read_bytes()
        found = sum(
            there[at : at + SECTOR_BYTES] != bytes(SECTOR_BYTES)
            for at in range(0, len(there), SECTOR_BYTES)
        )
        assert (unflushed, found) == (SECTORS, SECTORS - lost)
        kept.add(found)
    assert 0 in kept
    assert len(kept) > 3

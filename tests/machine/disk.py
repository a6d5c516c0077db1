"""A disk with a volatile write cache, served to qemu over NBD, that can lose its power.

What is modelled: a drive keeps written sectors in its cache until a flush, or a write with FUA, is
answered; at a power cut each of those sectors is on the medium or is not, in no order, and a write
is torn between sectors of 512 bytes. Killing qemu alone would model less: what a guest has written
without a flush is in the host's page cache then, and survives. Here the cache is this process's
memory, and `lose_power` decides by the sector.

Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, simple
replies).
"""

import os
import random
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

SECTOR_BYTES: Final = 512
_HELLO: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_FIXED_NEWSTYLE: Final = 1
_OPT_ABORT, _OPT_GO = 2, 7
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, 2**31 + 1
_FLAGS: Final = 1 | 4 | 8  # there are flags; FLUSH and FUA are understood
_FUA: Final = 1
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_INVALID: Final = 22


class Disk:
    """A file of sectors behind a cache, for one machine at a time.

    Args:
        medium: The file that holds what was flushed.
        path: Of the socket for qemu.
    """

    def __init__(self, medium: Path, path: Path) -> None:
        self._medium: Final = os.open(medium, os.O_RDWR)
        self._bytes: Final = medium.stat().st_size
        self._cache: dict[int, bytes] = {}
        self._lock: Final = threading.Lock()
        self._on: bool = True
        self.flushes = 0
        path.unlink(missing_ok=True)
        self._listener: Final = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self.drive: Final = f"file=nbd:unix:{path},format=raw,cache=writeback"
        """For qemu's -drive: a cache that the guest knows of, and has to flush."""
        self._thread: Final = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def lose_power(self, coin: random.Random) -> tuple[int, int]:
        """Forget what was not flushed, or by the sector some of it; gives how many of how many."""
        with self._lock:
            self._on = False
            share = coin.choice((0.0, 0.5, 0.9))
            kept = {at: data for at, data in self._cache.items() if coin.random() < share}
            lost, pending = len(self._cache) - len(kept), len(self._cache)
            self._cache = kept
            self._write_back()
        return lost, pending

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        os.close(self._medium)

    # The server.

    def _serve(self) -> None:
        # qemu's ends with its machine: by an error, or by the end of its stream.
        with suppress(OSError, EOFError):
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as stream:
                self._greet(connection, stream)
                while self._answer(connection, stream):
                    pass

    def _greet(self, connection: socket.socket, stream: BinaryIO) -> None:
        connection.sendall(_HELLO.pack(b"NBDMAGIC", b"IHAVEOPT", _FIXED_NEWSTYLE))
        _exactly(stream, 4)
        while True:
            _, option, size = _OPTION.unpack(_exactly(stream, _OPTION.size))
            _exactly(stream, size)
            if option == _OPT_GO:
                info = struct.pack(">HQH", 0, self._bytes, _FLAGS)
                for kind, data in ((_REP_INFO, info), (_REP_ACK, b"")):
                    head = _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data))
                    connection.sendall(head + data)
                return
            kind = _REP_ACK if option == _OPT_ABORT else _REP_UNSUPPORTED
            connection.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, 0))

    def _answer(self, connection: socket.socket, stream: BinaryIO) -> bool:
        head = _exactly(stream, _REQUEST.size)
        magic, flags, kind, handle, offset, size = _REQUEST.unpack(head)
        data = _exactly(stream, size) if kind == _WRITE else b""
        if magic != _REQUEST_MAGIC or kind == _DISCONNECT:
            return False
        error, answer = 0, b""
        with self._lock:
            if not self._on:
                return False
            if kind == _READ:
                answer = self._read(offset, size)
            elif kind == _WRITE:
                self._write(offset, data, through=bool(flags & _FUA))
            elif kind == _FLUSH:
                self.flushes += 1
                self._write_back()
            else:
                error = _INVALID
        connection.sendall(_REPLY.pack(_REPLY_MAGIC, error, handle) + answer)
        return True

    # The medium and its cache. Requests are of whole sectors: that is what virtio-blk sends.

    def _read(self, offset: int, size: int) -> bytes:
        found = bytearray(os.pread(self._medium, size, offset))
        for start in range(0, size, SECTOR_BYTES):
            cached = self._cache.get(offset + start)
            if cached is not None:
                found[start : start + SECTOR_BYTES] = cached
        return bytes(found)

    def _write(self, offset: int, data: bytes, *, through: bool) -> None:
        for start in range(0, len(data), SECTOR_BYTES):
            at, sector = offset + start, data[start : start + SECTOR_BYTES]
            if through:
                self._cache.pop(at, None)
                os.pwrite(self._medium, sector, at)
            else:
                self._cache[at] = sector

    def _write_back(self) -> None:
        for at, sector in self._cache.items():
            os.pwrite(self._medium, sector, at)
        self._cache.clear()


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data

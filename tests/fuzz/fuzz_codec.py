"""Fuzzes the frame decoder: any bytes, cut anywhere, are frames or a `RemoteProtocolError`.

Options are libFuzzer's, such as `-max_total_time=60`.
"""

import sys

import atheris

with atheris.instrument_imports(include=["protocol"]):
    from protocol import frames
    from protocol.codec import FrameDecoder, encode
    from protocol.errors import RemoteProtocolError

from tests.fuzz._corpus import plant

HONEST = 1


def read(pieces: list[bytes]) -> tuple[list[frames.Frame], bool]:
    """Decode; gives the frames before the end or the error, and whether there was an error."""
    decoder = FrameDecoder()
    got: list[frames.Frame] = []
    try:
        for piece in pieces:
            got.extend(decoder.feed(piece))
    except RemoteProtocolError:
        assert decoder.pending_bytes == 0
        return got, True
    assert decoder.pending_bytes <= sum(map(len, pieces))
    return got, False


def test_one_input(data: bytes) -> None:
    """First byte: whether lengths are made right; second: the size of the pieces."""
    honest, size = data[:1] == bytes([HONEST]), data[1] + 1 if len(data) > 1 else 1
    body = data[2:]
    if honest:
        body = b"".join(len(part).to_bytes(4, "little") + part for part in body.split(b"\xc1\xc1"))
    whole = read([body])
    assert read([body[start : start + size] for start in range(0, len(body), size)]) == whole
    for frame in whole[0]:
        assert read([encode(frame)]) == ([frame], False)


def seeds() -> list[bytes]:
    """One of every kind of frame, alone and together."""
    kinds: list[frames.Frame] = [
        frames.Call(1, "sessions.list", b"{}", 5, 16, "key"),
        frames.Result(2, b"[]"),
        frames.Failure(3, "CONFLICT", "no", b'{"field":"key"}'),
        frames.Chunk(4, b"x"),
        frames.End(5, b"{}"),
        frames.Credit(6, 16),
        frames.Cancel(7),
        frames.Event("tenants", b"{}"),
        frames.Ping(8),
        frames.Pong(9),
        frames.Drain(1.5),
        frames.Drained(),
    ]
    bodies = [encode(frame)[4:] for frame in kinds]
    return [
        b"\0\x03" + b"".join(map(encode, kinds)),
        bytes([HONEST, 255]) + b"\xc1\xc1".join(bodies),
        *(bytes([HONEST, 0]) + body for body in bodies),
    ]


if __name__ == "__main__":
    plant(sys.argv, seeds())
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()

"""What the supervisor and the process that counts say to each other, as events on their link."""

import msgspec


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Floor(_Message, frozen=True, kw_only=True):
    """`floor`, to the process: what is to stay free."""

    bytes: int


class Watched(_Message, frozen=True, kw_only=True):
    """`watch`, to the process: this tenant can grow, up to its bounds. None is no bound."""

    tenant: str
    bytes_max: int | None
    inodes_max: int | None


class Forgotten(_Message, frozen=True, kw_only=True):
    """`forget`, to the process: this tenant cannot grow any more."""

    tenant: str


class Counted(_Message, frozen=True, kw_only=True):
    """`counted`, from the process: what a tenant's files take.

    `bytes` holds `unlinked_bytes`: what is kept by processes alone, under no name any more. With a
    `fault` it may be any amount more. `age_seconds` is how long ago the count began.
    """

    tenant: str
    bytes: int
    inodes: int
    unlinked_bytes: int = 0
    fault: str | None = None
    age_seconds: float = 0.0


class Left(_Message, frozen=True, kw_only=True):
    """`left`, from the process: what the disk has left for tenants.

    `inodes` is None where the file system has no number of them.
    """

    bytes: int
    inodes: int | None
    total_bytes: int

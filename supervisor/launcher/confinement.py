"""What launcher and stem give up: neither needs all that the supervisor may."""

from supervisor.zygote import linux


def confine_launcher() -> None:
    """Leave the launcher what reaching Docker, killing and opening directories takes."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def confine_stem() -> None:
    """Leave the stem what becoming a tenant and making namespaces takes."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)

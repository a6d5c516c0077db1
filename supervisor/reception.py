"""Where the gateway listens, and what the front is told of who may call."""

import ipaddress
import socket
from pathlib import Path
from typing import Final

import msgspec

from protocol.methods import answered_by
from protocol.spawn import FrontSettings, FrontSpec
from supervisor import isolation, tls
from supervisor.config import GatewaySection
from supervisor.version import VERSION

LISTEN_BACKLOG: Final = 1024
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        OSError: the address is taken or not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def url_of(listener: socket.socket, *, secure: bool) -> str:
    """Give the URL under which a listening socket is reached from this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http{'s' if secure else ''}://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def stage_certificate(section: GatewaySection, directory: Path, uid: int | None) -> None:
    """Copy the configured certificate to where a front of this uid finds it, if there is one.

    Raises:
        CertificateError: it cannot be used; what was staged before stays.
        OSError: it cannot be copied.
    """
    if section.tls is not None:
        tls.stage(Path(section.tls.certificate), Path(section.tls.key), directory, uid)


def front_settings(section: GatewaySection, tls_directory: Path) -> FrontSettings:
    """Say what the operator has decided about the front."""
    own = () if ipaddress.ip_address(section.host).is_unspecified else (_bracketed(section.host),)
    return FrontSettings(
        allowed_hosts=(*LOOPBACK_HOSTS, *own, *section.allowed_hosts),
        allowed_origins=section.allowed_origins,
        trusted_proxies=section.trusted_proxies,
        connections_per_address_max=section.connections_per_address,
        tls_directory=str(tls_directory) if section.tls is not None else None,
    )


def front_spec(
    settings: FrontSettings, confined: isolation.Report, root: Path, notices: tuple[str, ...]
) -> FrontSpec:
    """Say what a new front is told first.

    Args:
        settings: What the operator has decided.
        confined: How it is confined.
        root: The state root.
        notices: What an operator has to know.
    """
    readable = () if settings.tls_directory is None else (Path(settings.tls_directory),)
    return FrontSpec(
        settings=settings,
        version=VERSION,
        notices=notices,
        jail=msgspec.msgpack.encode(confined.front_jail(root, *readable)),
        supervised=answered_by("supervisor") | answered_by("operator"),
    )

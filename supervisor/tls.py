"""Certificate and key of the listening socket: where they lie, and what is made of them.

The operator's files stay where they are, readable by root alone. A copy lies in a directory of the
state root that belongs to the front's uid and is the only thing there it can read; when the files
change, a reload makes the copy anew and the front loads it into the context that it has.
"""

import os
import ssl
from pathlib import Path
from typing import Final

from supervisor.config import ConfigError

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
FILE_BYTES_MAX: Final = 256 * 1024


class CertificateError(ConfigError):
    """Certificate and key cannot be used; the message names the file and what is wrong."""


def stage(certificate: Path, key: Path, directory: Path, uid: int | None) -> None:
    """Copy a pair that fits to where the front finds it.

    Args:
        certificate: PEM, the server's first, then the chain.
        key: PEM, not encrypted.
        directory: Where to.
        uid: Whose the copies become; None for the caller's own.

    Raises:
        CertificateError: a file cannot be read, or they are no pair. Nothing has changed.
    """
    texts = check(certificate, key)
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, text in texts.items():
        fresh = directory / f".new-{name}"
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
        if uid is not None:
            os.chown(fresh, uid, uid)
        fresh.rename(directory / name)
    if uid is not None:
        os.chown(directory, uid, uid)


def check(certificate: Path, key: Path) -> dict[str, bytes]:
    """Give what is to be staged, by name, if it is a certificate and its key.

    Raises:
        CertificateError: it is not.
    """
    texts = {CERTIFICATE: _read(certificate), KEY: _read(key)}
    try:
        server_context().load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, ValueError) as error:
        msg = f"{certificate} and {key} are no certificate and its key: {error}"
        raise CertificateError(msg) from error
    return texts


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise CertificateError(msg) from error
    if len(text) > FILE_BYTES_MAX:
        msg = f"{path} is over {FILE_BYTES_MAX} bytes"
        raise CertificateError(msg)
    return text


def _no_password() -> bytes:
    msg = "the key is encrypted; give one that is not"
    raise ValueError(msg)


def server_context() -> ssl.SSLContext:
    """Make a context for a server, still without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def load(context: ssl.SSLContext, directory: Path) -> None:
    """Have handshakes from now on use what was staged last.

    Raises:
        OSError: it cannot be read, or is no pair.
    """
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY, _no_password)


def client_context(directory: Path) -> ssl.SSLContext:
    """Make a context that trusts the staged certificate and no other, whatever its names are.

    It is for a command on the same machine, which can read the state root.

    Raises:
        OSError: it cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The certificate itself is the anchor, also one that an authority has signed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(directory / CERTIFICATE)
    return context

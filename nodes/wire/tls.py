"""Mutual TLS between nodes and from the runner: contexts from a folder, and the names that certificates give.

Each end has a certificate of one authority, and a node is known by its name in it, not by its address: so a connection
through an emulator, a tunnel or another address is checked all the same.
"""

import ssl
from pathlib import Path
from typing import NamedTuple

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "node.pem", "node.key"


class Tls(NamedTuple):
    """Contexts of the accepting and of the connecting end."""

    accepting: ssl.SSLContext
    connecting: ssl.SSLContext


def tls_of(folder: Path) -> Tls:
    """The contexts of the files in ``folder``. Raises ValueError that names the file."""
    accepting, connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (accepting, connecting):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        _load(context, folder)
    return Tls(accepting, connecting)


def _load(context: ssl.SSLContext, folder: Path) -> None:
    for name in (AUTHORITY, CERTIFICATE, KEY):
        try:
            (folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{folder / name}: {error.strerror}; make it with bench certs") from None
    try:
        context.load_verify_locations(folder / AUTHORITY)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except ssl.SSLError as error:
        raise ValueError(f"{folder}: its certificates cannot be used: {error.reason or error}") from None


def names_of(certificate: object) -> list[str]:
    """The host names of a peer's ``certificate``, as ssl gives it; none if there is none."""
    if not isinstance(certificate, dict):
        return []
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]

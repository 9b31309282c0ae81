"""Certificates of nodes and their runner, made by the command ``openssl``.

The command is on every machine that has ssh, and is needed on one machine once; a library would come with every
installation.
"""

import ipaddress
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.live.hosts.document import NODE_NAME
from bench.suite.document import InputError
from nodes.wire.tls import AUTHORITY, CERTIFICATE, KEY

AUTHORITY_KEY = "ca.key"
AUTHORITY_DAYS, LEAF_DAYS = 3650, 825
PRIVATE = 0o077  # umask: nobody else reads a key
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256")
CONFIGURATION = """[req]
distinguished_name = dn
prompt = no
x509_extensions = ext
[dn]
CN = {name}
[ext]
{extensions}
"""


def make_authority(folder: Path) -> list[Path]:
    """Make an authority in ``folder``; its files. Raises InputError, also if there is one."""
    certificate, key = folder / AUTHORITY, folder / AUTHORITY_KEY
    _check_new(folder, [certificate, key])
    extensions = "basicConstraints = critical, CA:TRUE, pathlen:0\nkeyUsage = critical, keyCertSign, cRLSign"
    with _configured("SplitMEC", f"{extensions}\nsubjectKeyIdentifier = hash") as configuration:
        out = ("-days", str(AUTHORITY_DAYS), "-keyout", key, "-out", certificate)
        _openssl("req", "-x509", "-config", configuration, *NEW_KEY, *out)
    certificate.chmod(0o644)
    return [certificate, key]


def make_leaf(folder: Path, name: str, hosts: Sequence[str]) -> list[Path]:
    """Make the certificate of ``name``, also known by ``hosts``, in its own folder; the files. Raises InputError."""
    if not NODE_NAME.fullmatch(name):
        raise InputError([f"NAME: {name!r} is not a name of a node; give letters, digits, - and _ as in mec1"])
    for given in (AUTHORITY, AUTHORITY_KEY):
        if not (folder / given).is_file():
            raise InputError([f"{folder / given}: is not there; make it with bench certs init {folder}"])
    own = folder / name
    authority, certificate, key = own / AUTHORITY, own / CERTIFICATE, own / KEY
    _check_new(own, [authority, certificate, key])
    alternative = ", ".join([f"DNS:{name}", *map(_alternative, hosts)])
    extensions = "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature"
    usage = f"extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = {alternative}"
    with _configured(name, f"{extensions}\n{usage}") as configuration, tempfile.NamedTemporaryFile() as request:
        _openssl("req", "-new", "-config", configuration, *NEW_KEY, "-keyout", key, "-out", request.name)
        by = ("-CA", folder / AUTHORITY, "-CAkey", folder / AUTHORITY_KEY, "-set_serial", f"0x{secrets.token_hex(16)}")
        extended = ("-extfile", configuration, "-extensions", "ext", "-days", str(LEAF_DAYS), "-sha256")
        _openssl("x509", "-req", "-in", request.name, *by, *extended, "-out", certificate)
    authority.write_bytes((folder / AUTHORITY).read_bytes())
    for public in (authority, certificate):
        public.chmod(0o644)
    return [authority, certificate, key]


def _alternative(host: str) -> str:
    """``host`` as a name of a certificate. Raises InputError for what could be more than one."""
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        if not all(NODE_NAME.fullmatch(label) for label in host.split(".")):
            raise InputError([f"--host: {host!r} is neither an address nor a host name"]) from None
        return f"DNS:{host}"


def _check_new(folder: Path, files: Sequence[Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError([f"{folder}: {error.strerror}"]) from None
    if there := [str(file) for file in files if file.exists()]:
        raise InputError([f"{', '.join(there)}: is there already; remove it, or give another folder"])


@contextmanager
def _configured(name: str, extensions: str) -> Iterator[str]:
    """The path of a file for openssl, which says what the certificate of ``name`` holds."""
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as file:
        file.write(CONFIGURATION.format(name=name, extensions=extensions))
        file.flush()
        yield file.name


def _openssl(*words: object) -> None:
    command = ["openssl", *map(str, words)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, umask=PRIVATE)
    except FileNotFoundError:
        raise InputError(["openssl: the command is not there; install openssl 1.1.1 or later"]) from None
    except subprocess.CalledProcessError as error:
        raise InputError([f"openssl {words[0]}: {' '.join(error.stderr.split())[-300:]}"]) from None

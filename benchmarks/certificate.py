"""A certificate, made by ``openssl`` for one run of a server, and who believes it."""

from __future__ import annotations

import ssl
import subprocess
import typing as t
from pathlib import Path

KIND = "ECDSA P-256"
"""What the key is, as tables say it."""

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    " -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)


class Certificate(t.NamedTuple):
    """Where the files are."""

    certificate: Path
    key: Path
    """As PKCS #8."""

    both: Path
    """The two in one file."""


def make_certificate(folder: Path) -> Certificate:
    """Make a self-signed certificate.

    :raises OSError: There is no ``openssl``.
    :raises subprocess.CalledProcessError: It can't.
    """
    made = Certificate(*(folder / name for name in ("tls.crt", "tls.key", "tls.pem")))
    words = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*_MAKE.split(), *words], check=True, capture_output=True)
    made.both.touch(mode=0o600)
    made.both.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    return made


def untrusting(version: str = "") -> ssl.SSLContext:
    """A client's context that believes any certificate.

    :param version: Of TLS, the only one; any by default.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    if version:
        context.minimum_version = context.maximum_version = VERSIONS[version]

    return context

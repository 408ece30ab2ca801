"""Reads certificates and keys, and makes the SSL context by which TLS is spoken.

Without a context of the user's own: TLS 1.2 and 1.3, ciphers with forward secrecy and
authenticated encryption, ``http/1.1`` by ALPN (RFC 7301), no compression, no
renegotiation, no early data. Several certificates are told apart by the name that the
client asks for (RFC 6066, 3).
"""

from __future__ import annotations

import contextlib
import math
import os
import ssl
import sys
import time
import typing as t
from collections.abc import Sequence

from ..settings.certificates import ADHOC
from ..settings.certificates import Certificate
from ..system import descriptors
from ..system import memory_file
from ..system.log import logger

#: For TLS 1.2; those of 1.3 are all good. With forward secrecy and authenticated
#: encryption (RFC 9325, 4.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Flags of ``X509_VERIFY_PARAM_set_flags(3)``: a certificate may vouch for itself, at
#: any time.
_PARTIAL_CHAIN, _NO_CHECK_TIME = 0x80000, 0x200000


class CertificateError(Exception):
    """A certificate or key can't be used; says which, and why."""


def make_context(certificates: Sequence[Certificate]) -> ssl.SSLContext:
    """Make the context of all connections.

    :param certificates: The first is for who asks for no name, or for an unknown one.
    :raises CertificateError: One of them can't be used.
    """
    first = certificates[0]
    if not first.is_file and first.name != ADHOC:
        return _import(first.name)
    contexts = [_read(one) for one in certificates]
    if first.is_file:
        names: dict[str, ssl.SSLContext] = {}
        for context, certificate in zip(contexts, certificates, strict=True):
            found = _look_into(context, certificate)
            for name in found.names:
                names.setdefault(name, context)
            if found.ends < time.time():
                logger.warning(
                    "The certificate %s has expired; clients refuse it.",
                    certificate.name,
                )
        if len(contexts) > 1:
            _choose_by_name(contexts[0], names)
    return contexts[0]


def _read(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    if not certificate.is_file:
        _load_adhoc(context)
        return context
    for path in certificate:
        try:
            with open(path, "rb"):
                pass
        except OSError as e:
            raise CertificateError(f"Can't read {path}: {e.strerror}.") from None
    try:
        # Without a password there would be a prompt.
        context.load_cert_chain(*certificate, password=_no_password)
    except _NeedsPassword:
        raise CertificateError(
            f"The key {certificate.key} needs a password; give one without, readable"
            " for root only."
        ) from None
    except (ssl.SSLError, ValueError) as e:
        # Without a reason, OpenSSL's PEM functions have found nothing of the kind.
        reason = getattr(e, "reason", None) or "one of them has no PEM block"
        if reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"The key {certificate.key} is not that of the certificate"
                f" {certificate.name}."
            ) from None
        raise CertificateError(
            f"Can't use the certificate {certificate.name} with the key"
            f" {certificate.key}, both in PEM format: {reason}."
        ) from None
    return context


class _NeedsPassword(Exception):
    """A key is encrypted."""


def _no_password() -> t.NoReturn:
    raise _NeedsPassword


def _import(name: str) -> ssl.SSLContext:
    """Import a context of the user's own."""
    # Here, for most certificates are files, and werkzeug is megabytes.
    from werkzeug.utils import import_string

    # Last, so that it has nothing in place of a module of the server's.
    sys.path.append(os.getcwd())
    try:
        found = import_string(name)
    except (Exception, SystemExit) as e:
        # Werkzeug's own message tells of each step on many lines.
        reason = getattr(e, "exception", e)
        raise CertificateError(
            f"--cert {name} is neither a file nor an SSL context that can be imported:"
            f" {type(reason).__name__}: {reason}"
        ) from e
    if callable(found) and not isinstance(found, ssl.SSLContext):
        try:
            found = found()
        except (Exception, SystemExit) as e:
            raise CertificateError(
                f"--cert {name} has failed: {type(e).__name__}: {e}"
            ) from e
    if not isinstance(found, ssl.SSLContext):
        raise CertificateError(
            f"--cert {name} is {type(found).__name__}, and no ssl.SSLContext or a"
            " function that returns one."
        )
    try:
        found.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    except (ssl.SSLError, ValueError) as e:
        raise CertificateError(f"--cert {name} is no context for a server: {e}") from e
    return found


def _load_adhoc(context: ssl.SSLContext) -> None:
    """Make a certificate."""
    from cryptography.hazmat.primitives import serialization
    from werkzeug.serving import generate_adhoc_ssl_pair

    certificate, key = generate_adhoc_ssl_pair()
    encoding = serialization.Encoding.PEM
    data = certificate.public_bytes(encoding) + key.private_bytes(
        encoding,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    # OpenSSL reads files by their names only.
    with open(memory_file.create("flask_prefork_certificate"), "wb") as file:
        file.write(data)
        file.flush()
        context.load_cert_chain(f"{descriptors.folder()}/{file.fileno()}")


class _Contents(t.NamedTuple):
    """What a certificate says.

    :param names: Its DNS names, in small letters.
    :param ends: When it expires, in seconds of the epoch.
    """

    names: list[str]
    ends: float


def _look_into(context: ssl.SSLContext, certificate: Certificate) -> _Contents:
    """What a certificate says.

    The ssl module shows a peer's names only: so the context speaks to one that trusts
    just this certificate.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        client.load_verify_locations(certificate.name)
    except (OSError, ssl.SSLError) as e:
        raise CertificateError(f"Can't read {certificate.name}: {e}.") from None
    client.verify_flags |= t.cast(ssl.VerifyFlags, _PARTIAL_CHAIN | _NO_CHECK_TIME)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up)
    try:
        for end in (theirs, ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
        found: dict[str, t.Any] = dict(theirs.getpeercert() or {})
    except (ssl.SSLError, ValueError) as e:
        raise CertificateError(
            f"The certificate {certificate.name} can't be used: {e}."
        ) from None
    pairs = found.get("subjectAltName", ())
    names = [name.lower() for kind, name in pairs if kind == "DNS"]
    ends = found.get("notAfter")
    return _Contents(names, ssl.cert_time_to_seconds(ends) if ends else math.inf)


def _choose_by_name(
    context: ssl.SSLContext, contexts: t.Mapping[str, ssl.SSLContext]
) -> None:
    """Let the name that a client asks for choose the certificate."""

    def choose(
        session: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        wanted = (name or "").lower()
        wildcard = "*." + wanted.partition(".")[2]
        session.context = contexts.get(wanted) or contexts.get(wildcard) or context

    context.sni_callback = choose


def readable_by_others(certificates: Sequence[Certificate]) -> list[str]:
    """The keys that all users of this machine may read."""
    found = []
    for one in certificates:
        with contextlib.suppress(OSError):
            if one.is_file and os.stat(one.key).st_mode & 0o004:
                found.append(one.key)
    return found

"""Certificates and keys, as they are read."""

from __future__ import annotations

import os
import ssl
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from werkzeug.serving import make_ssl_devcert

from flask_prefork.settings.certificates import Certificate
from flask_prefork.tlsproxy import contexts
from flask_prefork.tlsproxy.contexts import CertificateError
from flask_prefork.tlsproxy.contexts import make_context
from flask_prefork.tlsproxy.contexts import readable_by_others

from .conftest import MakeHarness
from .conftest import trusting


def test_defaults(certificate: Certificate) -> None:
    context = make_context([certificate])
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION):
        assert context.options & option


def test_a_certificate_that_is_made(make_harness: MakeHarness) -> None:
    harness = make_harness(context=make_context([Certificate("adhoc")]))
    assert harness.client().version() == "TLSv1.3"


def named(harness: object, name: str | None) -> bytes:
    client = harness.client(server_hostname=name)  # type: ignore[attr-defined]
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return bytes(found)


def test_names(
    make_harness: MakeHarness, tmp_path: Path, certificate: Certificate
) -> None:
    """The client's server name chooses the certificate."""
    other = Certificate(*make_ssl_devcert(str(tmp_path / "other"), host="other.test"))
    harness = make_harness(context=make_context([certificate, other]))
    mine, others = (
        ssl.PEM_cert_to_DER_cert(Path(one.name).read_text())
        for one in (certificate, other)
    )
    assert named(harness, "other.test") == others
    assert named(harness, "www.OTHER.test") == others, (
        "its certificate is for *.other.test"
    )
    for name in ("shop.test", "nowhere.test", None):
        assert named(harness, name) == mine


def encrypted(path: Path, certificate: Certificate) -> Path:
    key = serialization.load_pem_private_key(Path(certificate.key).read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


def test_what_can_not_be_used(tmp_path: Path, certificate: Certificate) -> None:
    other = Certificate(*make_ssl_devcert(str(tmp_path / "other"), host="other.test"))
    garbage = tmp_path / "garbage"
    garbage.write_text("no PEM")
    locked = str(encrypted(tmp_path / "locked", certificate))
    slips = {
        Certificate(certificate.name, other.key): "is not that of the certificate",
        Certificate(str(garbage), certificate.key): "Can't use the certificate",
        Certificate(certificate.name, str(garbage)): "Can't use the certificate",
        Certificate(
            certificate.name, str(tmp_path / "no")
        ): "Can't read .*/no: No such",
        Certificate(certificate.name, locked): "needs a password",
        Certificate("no.such.context"): "neither a file nor an SSL context",
        Certificate("os.path"): "no ssl.SSLContext",
    }
    for slip, message in slips.items():
        with pytest.raises(CertificateError, match=message):
            make_context([slip])


def test_a_context_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_tls.py").write_text(
        "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "def make():\n    return context\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = make_context([Certificate("own_tls.make")])
    assert made is sys.modules["own_tls"].context
    assert make_context([Certificate("own_tls:context")]) is made


def test_contexts_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says why."""
    (tmp_path / "failing_tls.py").write_text(
        "import ssl\n"
        "def make():\n    return 1 / 0\n"
        "def leave():\n    raise SystemExit(3)\n"
        "client = ssl.create_default_context()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, reason in (
        ("failing_tls.make", "has failed: ZeroDivisionError: division by zero"),
        ("failing_tls.leave", "has failed: SystemExit: 3"),
        ("failing_tls.client", "is no context for a server: "),
        ("failing_tls.other", "can be imported: .*has no attribute 'other'"),
        ("shop.pemm", "can be imported: .*No module named 'shop'"),
    ):
        with pytest.raises(CertificateError, match=reason) as caught:
            make_context([Certificate(name)])
        assert "\n" not in str(caught.value)


def test_a_certificate_that_has_expired(
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_context([certificate])
    assert not caplog.text
    later = time.time() + 86400 * 4000
    monkeypatch.setattr(contexts.time, "time", lambda: later)
    make_context([certificate])
    assert f"The certificate {certificate.name} has expired" in caplog.text


def test_keys_that_all_may_read(certificate: Certificate) -> None:
    os.chmod(certificate.key, 0o600)
    assert readable_by_others([certificate, Certificate("adhoc")]) == []
    os.chmod(certificate.key, 0o644)
    assert readable_by_others([certificate]) == [certificate.key]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(make_harness: MakeHarness, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = make_harness().client(context)
    assert client.version() == version.name.replace("_", ".")
    assert client.selected_alpn_protocol() == "http/1.1"
    assert client.compression() is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions(make_harness: MakeHarness) -> None:
    context = trusting()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        make_harness().client(context)

"""The server's own certificate authority and its certificate, made at the first start.

Machines pin the CA by the SHA-256 of its DER form, so it is made once and kept; the server's
certificate is issued anew when the names it must carry change or it nears its end.  Private keys
are files of mode 600; nothing here is sent anywhere.
"""

import contextlib
import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = timedelta(days=20 * 365)  # Replacing it means enrolling every machine again.
SERVER_LIFE = timedelta(days=397)  # The longest that browsers take.
RENEW_BEFORE = timedelta(days=30)
# Machines whose clock lags must be able to enrol, too.
VALID_BEFORE_NOW = timedelta(days=2)

CA_FILE, CA_KEY_FILE = "ca.pem", "ca.key"
SERVER_FILE, SERVER_KEY_FILE = "server.pem", "server.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Attributes:
    ca_pem: the CA itself, one PEM certificate.
    ca_sha256: of its DER form, lower-case hex: what machines pin.
    chain: file with the server's certificate and the CA's, for uvicorn's `ssl_certfile`.
    key: file with the server's private key.
    """

    ca_pem: str
    ca_sha256: str
    chain: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.chain, self.key)
        return context


class CertificateError(Exception):
    """The files under the directory cannot be used; the text says which and what to do."""


def open_certificates(directory: Path, names: Sequence[str], *, now: datetime) -> Certificates:
    """The certificates under `directory`, made or renewed where needed.

    Args:
        names: DNS names and IP addresses under which machines and people reach this server.
        now: the wall clock.

    Raises:
        CertificateError: the CA is damaged.  It is never made anew by itself: every machine pins
            it, so that would cut all of them off.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, ca = _open_ca(directory, now)
    chain, key_file = directory / SERVER_FILE, directory / SERVER_KEY_FILE
    if not _is_good(chain, key_file, ca, names, now):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = _issue(key, names, ca_key, ca, now)
        _write_private(key_file, _key_pem(key))
        _write_private(chain, _pem(issued) + _pem(ca))
    der = ca.public_bytes(serialization.Encoding.DER)
    return Certificates(
        ca_pem=_pem(ca).decode(),
        ca_sha256=hashlib.sha256(der).hexdigest(),
        chain=chain,
        key=key_file,
    )


def _open_ca(directory: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    file, key_file = directory / CA_FILE, directory / CA_KEY_FILE
    if file.exists():
        return _read_ca(file, key_file)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upkeep CA")])
    ca = (
        _builder(subject, subject, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: a certificate without its key could not be used, and machines would pin it.
    _write_private(key_file, _key_pem(key))
    _write_private(file, _pem(ca))
    return key, ca


def _read_ca(file: Path, key_file: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    remedy = (
        f"put both {file} and {key_file.name} back from a backup. Without one remove {file.parent},"
        " start again, and enrol every machine anew"
    )
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        ca = x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError as error:
        raise CertificateError(f"{key_file} is missing: {remedy}") from error
    except ValueError as error:
        raise CertificateError(f"the CA cannot be read ({error}): {remedy}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise CertificateError(f"{key_file} is not the key of {file}: {remedy}")
    return key, ca


def _issue(
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upkeep server")])
    return (
        _builder(subject, ca.subject, key.public_key(), now, SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in _ordered(names)]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_BEFORE_NOW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _ordered(names: Sequence[str]) -> list[str]:
    return sorted({name.lower() for name in names})


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_good(
    chain: Path, key_file: Path, ca: x509.Certificate, names: Sequence[str], now: datetime
) -> bool:
    """The certificate is there with its key, signed by this CA, for exactly these names, and
    lasts a while.  All CAs of ours have one name, so the signature is what counts."""
    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        certificate.verify_directly_issued_by(ca)
        carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        key.public_key() == certificate.public_key()
        and list(carried) == [_general_name(name) for name in _ordered(names)]
        and certificate.not_valid_after_utc - now > RENEW_BEFORE
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, readable by us alone from its first byte on."""
    fresh = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

"""A certificate authority for tests that need certificates with something wrong about them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Authority:
    """Issues certificates into `folder`; `bundle` is the PEM file that trusts them."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        self._folder = folder
        self._name = _common_name(f"authority of {name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = (
            self._builder(self._name, self._name, self._key, 0)
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / f"{name}.authority.pem"
        _ = self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: Sequence[str] = LOOPBACK, *, days_ago: int = 0) -> Path:
        """A certificate for `hosts`, valid for a day, that day `days_ago`, and its key: one PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_common_name(name), self._name, key, days_ago)
        return self._write(name, builder, hosts, key, self._key)

    def self_signed(self, name: str) -> Path:
        """A certificate that no authority has signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_common_name(name), _common_name(name), key, 0)
        return self._write(name, builder, LOOPBACK, key, key)

    def _write(
        self,
        name: str,
        builder: x509.CertificateBuilder,
        hosts: Sequence[str],
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
    ) -> Path:
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        certificate = builder.add_extension(names, critical=False).sign(signer, hashes.SHA256())
        path = self._folder / f"{name}.pem"
        _ = path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days_ago: int,
    ) -> x509.CertificateBuilder:
        begins = datetime.now(UTC) - timedelta(minutes=5) - days_ago * _DAY
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + _DAY)
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

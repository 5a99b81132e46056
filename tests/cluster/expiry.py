"""Certificates that have expired, of an authority that a test has the key of."""

from __future__ import annotations

import datetime
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def expired(certificate: bytes, authority: pathlib.Path) -> bytes:
    """Return a certificate signed anew, whose time is over; same key, same names.

    Args:
        certificate: the one that is good, in PEM.
        authority: the folder of the authority's ca.crt and ca.key.
    """
    good = x509.load_pem_x509_certificate(certificate)
    key = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(good.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Served:
    """The certificate that a proxy presents when it starts to listen."""

    def __init__(self, authority: pathlib.Path) -> None:
        self._authority = authority
        self._path = authority / "server.crt"

    def read(self) -> bytes:
        """Return what it presents."""
        return self._path.read_bytes()

    def write(self, certificate: bytes) -> None:
        """Have it present another one."""
        self._path.write_bytes(certificate)

    def expire(self) -> None:
        """Have it present one whose time is over."""
        self.write(expired(self.read(), self._authority))

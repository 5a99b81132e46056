"""The certificates of one cluster, and kubeconfigs that carry an identity.

Every identity of the lab is a client certificate of the cluster's own authority:
common name is the user, organizations are the groups. So a test may be any user
at once, without a running controller that would issue a token.
"""

import base64
import dataclasses
import datetime
import ipaddress
import pathlib
from collections.abc import Callable, Sequence
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from lab import settings

_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPair:
    """Files of a certificate and its private key."""

    certificate: pathlib.Path
    key: pathlib.Path


class Authority:
    """The certificate authority of one cluster, kept in a directory."""

    def __init__(self, directory: pathlib.Path, name: str) -> None:
        """Load the authority from `directory`, or make it there."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.ca = KeyPair(directory / "ca.crt", directory / "ca.key")
        if not self.ca.certificate.exists():
            self._create(name)
        key = serialization.load_pem_private_key(self.ca.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self.ca.certificate.read_bytes())

    def client(self, user: str, groups: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Return certificate and key, in PEM, of a user who is in these groups."""
        names = [x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, group) for group in groups]
        names.append(x509.NameAttribute(oid.NameOID.COMMON_NAME, user))
        usage = x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(x509.Name(names), [usage])

    def ensure_client(self, name: str, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """Have a client certificate in files called `name`; what is there is kept."""
        return self._ensure(name, lambda: self.client(user, groups))

    def ensure_server(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """Have a serving certificate, for host names and addresses, in files called `name`."""
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        usage = x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH])
        subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])
        return self._ensure(name, lambda: self._issue(subject, [alternatives, usage]))

    def ensure_signing_key(self, name: str) -> pathlib.Path:
        """Have a bare private key (service account tokens are signed with it)."""
        path = self.directory / f"{name}.key"
        if not path.exists():
            _write_secret(path, _pem_of(ec.generate_private_key(ec.SECP256R1())))
        return path

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, f"{name}-ca")])
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write_secret(self.ca.key, _pem_of(key))
        self.ca.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _ensure(self, name: str, issue: Callable[[], tuple[bytes, bytes]]) -> KeyPair:
        pair = KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        if not pair.certificate.exists():
            certificate, key = issue()
            _write_secret(pair.key, key)
            pair.certificate.write_bytes(certificate)
        return pair

    def _issue(
        self, subject: x509.Name, extensions: Sequence[x509.ExtensionType]
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._certificate.subject, key.public_key())
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _pem_of(key)


def forge_kubeconfig(
    *,
    cluster: str,
    server: str,
    authority: bytes,
    certificate: bytes = b"",
    key: bytes = b"",
    token: str = "",
) -> str:
    """Return the text of a kubeconfig that needs no other file.

    Args:
        cluster: its name there.
        server: URL of the API server.
        authority: certificate, in PEM, of who signs the server's.
        certificate: of the user, in PEM; unused beside a token.
        key: of that certificate.
        token: of the user.
    """
    user = {"token": token} if token else _certificate_user(certificate, key)
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": base64.b64encode(authority).decode(),
                    },
                }
            ],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": "user"}}],
            "current-context": cluster,
        },
        sort_keys=False,
    )


def write_kubeconfig(path: pathlib.Path, text: str) -> pathlib.Path:
    """Write a kubeconfig that only its owner may read."""
    _write_secret(path, text.encode())
    return path


def _certificate_user(certificate: bytes, key: bytes) -> dict[str, str]:
    return {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=settings.CERTIFICATE_DAYS))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        # NB: not PKCS8: kube-apiserver reads no elliptic service account key from that.
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write_secret(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)

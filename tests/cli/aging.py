"""Tokens that the provider signed long ago, of an API server whose key a test has."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from lab import control_plane


def aged(plane: control_plane.ControlPlane, token: str, *, issued_at: int, expires_at: int) -> str:
    """Return the same token with other times, in seconds since 1970, signed by the cluster."""
    header, payload, _ = token.split(".")
    claims: dict[str, Any] = json.loads(_decoded(payload))
    claims |= {"iat": issued_at, "nbf": issued_at, "exp": expires_at}
    claims.get("kubernetes.io", {}).pop("warnafter", None)
    signed = f"{header}.{_encoded(json.dumps(claims).encode())}"
    key = serialization.load_pem_private_key(
        plane.authority.ensure_signing_key("service-accounts").read_bytes(), password=None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    numbers = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    signature = b"".join(number.to_bytes(32, "big") for number in numbers)
    return f"{signed}.{_encoded(signature)}"


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")

"""A key of an issuer of tokens, and the tokens that it signs."""

import base64
import json
import time
import uuid

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

LIFETIME_S = 300


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A key on the curve P-256, and the tokens that it signs."""

    def __init__(self, issuer):
        self.issuer = issuer
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.id = str(uuid.uuid4())

    def jwk(self):
        point = self.key.public_key().public_numbers()
        x, y = (encode(number.to_bytes(32, "big")) for number in (point.x, point.y))
        return {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y}

    def sign(self, claims):
        now = int(time.time())
        claims = {"iss": self.issuer, "iat": now, "exp": now + LIFETIME_S, "jti": str(uuid.uuid4()), **claims}
        header = {"alg": "ES256", "typ": "JWT", "kid": self.id}
        signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        numbers = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return signed + "." + encode(b"".join(number.to_bytes(32, "big") for number in numbers))

"""A CI system's issuer of ID tokens: serves its metadata and key, and signs what a job is.

    issuer.py PORT

A real one signs what it knows of a job; this one signs whatever is posted to /token, for the example to be any job.
"""

import base64
import http.server
import json
import sys
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


class Issuer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    signer = None

    def do_GET(self):
        issuer = self.signer.issuer
        documents = {
            "/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"},
            "/jwks": {"keys": [self.signer.jwk()]},
        }
        if self.path in documents:
            self.answer(json.dumps(documents[self.path]))
        else:
            self.send_error(404)

    def do_POST(self):
        claims = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.answer(json.dumps({"value": self.signer.sign(claims)}))

    def answer(self, text):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    Issuer.signer = Signer(f"http://127.0.0.1:{sys.argv[1]}")
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Issuer).serve_forever()

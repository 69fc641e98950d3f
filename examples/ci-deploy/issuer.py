"""A CI system's issuer of ID tokens: serves its metadata and key, and signs what a job is.

    issuer.py PORT

A real one signs what it knows of a job; this one signs whatever is posted to /token, for the example to be any job.
"""

import http.server
import json
import sys

from tokens import Signer


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

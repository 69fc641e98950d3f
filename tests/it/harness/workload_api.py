"""What an independent client sees in a Workload API: one JSON document on standard output.

    python workload_api.py unix:///path
"""

import json
import sys
from functools import partial
from hashlib import sha256

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient


# gRPC's core names a Unix socket by its path, with `%2F`, as the authority of a request; the double's HTTP/2 takes none
# but host names.
grpc.insecure_channel = partial(grpc.insecure_channel, options=[("grpc.default_authority", "localhost")])


def digest(certificate):
    return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


with WorkloadApiClient(sys.argv[1]) as client:
    context = client.fetch_x509_context(timeout=10)
    svid = context.default_svid
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    x509 = client.fetch_x509_bundles(timeout=10)
    jwt = client.fetch_jwt_bundles(timeout=10)
    print(
        json.dumps(
            {
                "spiffe_id": str(svid.spiffe_id),
                "chain": [digest(certificate) for certificate in svid.cert_chain],
                "key": sha256(key).hexdigest(),
                "context": {
                    bundle.trust_domain.name: sorted(digest(root) for root in bundle.x509_authorities)
                    for bundle in context.x509_bundle_set.bundles
                },
                "bundles": {
                    bundle.trust_domain.name: sorted(digest(root) for root in bundle.x509_authorities)
                    for bundle in x509.bundles
                },
                "jwt": {bundle.trust_domain.name: sorted(bundle.jwt_authorities) for bundle in jwt.bundles},
            }
        )
    )

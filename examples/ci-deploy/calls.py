"""Jobs try to deploy through Envoy, and what comes back is judged against what was announced.

    calls.py FOLDER name=port ...

Exits 0 only if every line was as announced.
"""

import http.client
import json
import time

from inbound import Expected, Inbound
from story import run

DEPLOY = "spiffe://shop.example/ns/ops/sa/deploy"
# What GitHub says of a job, in short.
JOB = {
    "sub": "repo:shop/orders:environment:production",
    "aud": "deploy.shop.example",
    "repository": "shop/orders",
    "repository_id": "4711",
    "ref": "refs/heads/main",
    "ref_protected": "true",
    "environment": "production",
    "run_id": "30433642",
}
FEATURE = {"ref": "refs/heads/feature", "ref_protected": "false"}
FORK = {"sub": "repo:mallory/orders:environment:production", "repository": "mallory/orders", "repository_id": "666"}

ALLOWED = Expected(200, "allow", "policy", "registry")
BRANCH = Expected(403, "deny", "policy", "branch")
# Tier strict takes no token that is not bound to the workload that shows it.
UNBOUND = Expected(403, "deny", "tier_evidence")


def token(port, claims):
    """What the CI system gives a job that it knows by these claims."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    connection.request("POST", "/token", body=json.dumps(claims))
    value = json.loads(connection.getresponse().read())["value"]
    connection.close()
    return value


def main(folder, ports):
    inbound = Inbound(folder, ports["inbound"], DEPLOY)

    def deploy(title, expected, who="runner", claims=None, detail=""):
        headers = {}
        if claims is not None:
            headers["authorization"] = f"Bearer {token(ports['issuer'], {**JOB, **claims})}"
        return inbound.call(title, who, "POST", "/deploy", expected, headers, detail)

    deploy("A job of the protected branch deploys", ALLOWED, claims={}, detail=", ref refs/heads/main")
    deploy("The same runner without a token: whose job it is nobody knows", BRANCH)
    deploy("A job of a feature branch, on the same runner", BRANCH, claims=FEATURE, detail=", ref refs/heads/feature")
    deploy("A job of a fork: its token is about another workload", UNBOUND, claims=FORK, detail=", repository mallory/orders")
    stolen = "A good token that somebody else has got hold of"
    deploy(stolen, UNBOUND, who="reports", claims={}, detail=", ref refs/heads/main")
    past = int(time.time()) - 3600
    expired = Expected(401, "deny", "token_expired")
    deploy("Yesterday's token", expired, claims={"iat": past, "exp": past + 300}, detail=", expired")
    elsewhere = Expected(401, "deny", "token_audience")
    deploy("A token for another service", elsewhere, claims={"aud": "registry.example"}, detail=", aud registry.example")
    return inbound.screen.end()


if __name__ == "__main__":
    run(main)

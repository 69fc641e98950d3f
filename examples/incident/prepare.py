"""Lays out the example's folder: certificates, people's tokens, documents and configurations, with free ports put in.

    prepare.py FOLDER

Envoy's configuration is not among it: doorward prints it (run.sh).
"""

import json
import pathlib
import shutil
import sys

from layout import ROOT, derive, free_ports, own_doorward, tell
from svids import make_svids
from tokens import Signer

HERE = pathlib.Path(__file__).resolve().parent
# Who asks, who owns the agent, who else is in charge. Each is an approver, so that nobody is refused for lack of that.
PEOPLE = ["alice", "kim", "bob"]


def main(folder: pathlib.Path) -> None:
    ports = free_ports("inbound", "admin", "upstream", "operations", "control", "alertmanager", "pager")
    make_svids(
        folder / "certs",
        {
            "payments": ["spiffe://shop.example/ns/shop/sa/payments"],
            "agent": ["spiffe://shop.example/ns/ai/sa/agent"],
            "monitor": ["spiffe://shop.example/ns/ops/sa/monitor"],
            "doorward": ["127.0.0.1"],
        },
    )
    sign_in(folder)
    shutil.copytree(HERE / "documents", folder / "documents")
    own_doorward(
        HERE,
        folder,
        ports,
        {
            "../../policies": ROOT / "policies",
            "/run/doorward/control/control.sock": folder / "control.sock",
            "127.0.0.1:9443": f"127.0.0.1:{ports['control']}",
            "127.0.0.1:9093": f"127.0.0.1:{ports['alertmanager']}",
        },
    )
    # Who is told goes by the sample as it is; only nobody waits for more to come with it.
    derive(
        ROOT / "deploy" / "alertmanager" / "alertmanager.yaml",
        folder / "alertmanager.yaml",
        {
            "127.0.0.1:9094": f"127.0.0.1:{ports['pager']}",
            "group_wait: 10s": "group_wait: 0s",
            "group_interval: 1m": "group_interval: 1s",
        },
    )
    tell(ports)


def sign_in(folder: pathlib.Path) -> None:
    """The key of the people's identity provider, and a token for each of them, as after a login with a second factor."""
    provider = Signer("https://people.shop.example")
    (folder / "people.jwks").write_text(json.dumps({"keys": [provider.jwk()]}))
    for name in PEOPLE:
        claims = {"aud": "doorward", "sub": name, "email": f"{name}@shop.example", "groups": ["security"], "acr": "mfa"}
        (folder / f"{name}.jwt").write_text(provider.sign(claims))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Lays out the demo's folder: certificates, policy and configurations, with free ports put in.

    prepare.py FOLDER

The configurations are doorward.yaml beside this file and deploy/envoy of the repository, the ones that are meant to be
used; only addresses and paths are replaced, and calls without a certificate are let in.
"""

import pathlib
import shutil
import sys

from layout import free_ports, inbound_envoy, own_doorward, tell
from svids import make_svids

HERE = pathlib.Path(__file__).resolve().parent


def main(folder: pathlib.Path) -> None:
    ports = free_ports("inbound", "probe", "admin", "upstream", "operations", "otlp", "otlp_http")
    make_svids(
        folder / "certs",
        {
            "orders": ["spiffe://shop.example/ns/shop/sa/orders"],
            "frontend": ["spiffe://shop.example/ns/web/sa/frontend"],
            "reports": ["spiffe://shop.example/ns/office/sa/reports"],
            # No SVID, which has one name.
            "two-names": ["spiffe://shop.example/ns/web/sa/frontend", "spiffe://shop.example/ns/web/sa/admin"],
        },
    )
    shutil.copytree(HERE / "policy", folder / "policy")
    own_doorward(HERE, folder, ports, {"127.0.0.1:4317": f"127.0.0.1:{ports['otlp']}"})
    # The demo shows what doorward says of a call without a certificate too.
    optional = {"require_client_certificate: true": "require_client_certificate: false"}
    inbound_envoy(folder, ports, "orders", optional)
    tell(ports)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Lays out the example's folder: certificates, policy, documents and configurations, with free ports put in.

    prepare.py FOLDER
"""

import pathlib
import shutil
import sys

from layout import ROOT, free_ports, inbound_envoy, own_doorward, tell
from svids import make_svids

HERE = pathlib.Path(__file__).resolve().parent


def main(folder: pathlib.Path) -> None:
    ports = free_ports("inbound", "probe", "admin", "upstream", "operations", "issuer")
    make_svids(
        folder / "certs",
        {
            "deploy": ["spiffe://shop.example/ns/ops/sa/deploy"],
            "runner": ["spiffe://shop.example/ci/4711/production"],
            "reports": ["spiffe://shop.example/ns/office/sa/reports"],
        },
    )
    for name in ("policy", "documents"):
        shutil.copytree(HERE / name, folder / name)
    more = {
        "../../policies": ROOT / "policies",
        "127.0.0.1:8400": f"127.0.0.1:{ports['issuer']}",
    }
    own_doorward(HERE, folder, ports, more)
    inbound_envoy(folder, ports, "deploy")
    tell(ports)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

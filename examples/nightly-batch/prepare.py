"""Lays out the example's folder: certificates, documents and configurations, with free ports put in.

    prepare.py FOLDER

The registry comes later (calls.py): its night is chosen by the clock.
"""

import pathlib
import shutil
import sys

from layout import ROOT, derive, free_ports, inbound_envoy, tell
from svids import make_svids

HERE = pathlib.Path(__file__).resolve().parent


def main(folder: pathlib.Path) -> None:
    ports = free_ports("inbound", "probe", "admin", "upstream", "operations")
    make_svids(
        folder / "certs",
        {
            "ledger": ["spiffe://shop.example/ns/finance/sa/ledger"],
            "closing": ["spiffe://shop.example/ns/batch/sa/closing"],
            "auditor": ["spiffe://shop.example/ns/office/sa/auditor"],
        },
    )
    shutil.copytree(HERE / "documents", folder / "documents")
    derive(
        HERE / "doorward.yaml",
        folder / "doorward.yaml",
        {
            "/run/doorward/envoy/authz.sock": folder / "authz.sock",
            "../../policies": ROOT / "policies",
            "127.0.0.1:9919": f"127.0.0.1:{ports['operations']}",
        },
    )
    inbound_envoy(folder, ports, "ledger")
    tell(ports)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

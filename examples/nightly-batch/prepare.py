"""Lays out the example's folder: certificates, documents and configurations, with free ports put in.

    prepare.py FOLDER

The registry comes later (calls.py): its night is chosen by the clock.
"""

import pathlib
import shutil
import sys

from layout import ROOT, free_ports, inbound_envoy, own_doorward, tell
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
    own_doorward(HERE, folder, ports, {"../../policies": ROOT / "policies"})
    inbound_envoy(folder, ports, "ledger")
    tell(ports)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

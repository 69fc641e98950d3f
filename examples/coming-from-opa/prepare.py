"""Lays out the example's folder: policy and configurations as they are beside this file, with free ports put in.

    prepare.py FOLDER
"""

import pathlib
import shutil
import sys

from layout import derive, free_ports, tell

HERE = pathlib.Path(__file__).resolve().parent


def main(folder: pathlib.Path) -> None:
    ports = free_ports("inbound", "authz", "upstream", "operations")
    shutil.copytree(HERE / "policy", folder / "policy")
    derive(HERE / "opa.yaml", folder / "opa.yaml", {":9191": f":{ports['authz']}"})
    derive(
        HERE / "envoy.yaml",
        folder / "envoy.yaml",
        {
            "port_value: 8000": f"port_value: {ports['inbound']}",
            "port_value: 8080": f"port_value: {ports['upstream']}",
            ":9191": f":{ports['authz']}",
        },
    )
    tell(ports)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

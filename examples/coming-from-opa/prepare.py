"""Lays out the example's folder: policy and configurations as they are beside this file, with free ports put in.

    prepare.py FOLDER       prints `name=port` for each port taken, for the shell to read
"""

import pathlib
import shutil
import socket
import sys

HERE = pathlib.Path(__file__).resolve().parent


def main(folder: pathlib.Path) -> None:
    names = ["inbound", "authz", "upstream", "operations"]
    ports = dict(zip(names, free_ports(len(names))))
    shutil.copytree(HERE / "policy", folder / "policy")
    derive("opa.yaml", folder, {":9191": f":{ports['authz']}"})
    derive(
        "envoy.yaml",
        folder,
        {
            "port_value: 8000": f"port_value: {ports['inbound']}",
            "port_value: 8080": f"port_value: {ports['upstream']}",
            ":9191": f":{ports['authz']}",
        },
    )
    for name, port in ports.items():
        print(f"{name}={port}")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until the last is known, so that none comes twice."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def derive(name: str, folder: pathlib.Path, replacements: dict) -> None:
    text = (HERE / name).read_text()
    for old, new in replacements.items():
        if old not in text:
            sys.exit(f"{name}: `{old}` is not in it, and prepare.py wants to replace it")
        text = text.replace(old, new)
    (folder / name).write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

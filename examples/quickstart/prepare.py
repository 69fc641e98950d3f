"""Lays out the demo's folder: certificates, policy and configurations, with free ports put in.

    prepare.py FOLDER       prints `name=port` for each port taken, for the shell to read

The configurations are doorward.yaml beside this file and deploy/envoy of the repository, the ones that are meant to be
used; only addresses and paths are replaced, and calls without a certificate are let in.
"""

import pathlib
import shutil
import socket
import sys

from make_svids import make_svids

HERE = pathlib.Path(__file__).resolve().parent
ENVOY = HERE.parents[1] / "deploy" / "envoy"


def main(folder: pathlib.Path) -> None:
    names = ["inbound", "probe", "admin", "upstream", "operations", "otlp", "otlp_http"]
    ports = dict(zip(names, free_ports(len(names))))
    socket_path = folder / "authz.sock"

    make_svids(folder / "certs")
    shutil.copytree(HERE / "policy", folder / "policy")
    derive(
        HERE / "doorward.yaml",
        folder / "doorward.yaml",
        {
            "/run/doorward/envoy/authz.sock": socket_path,
            "127.0.0.1:9919": f"127.0.0.1:{ports['operations']}",
            "127.0.0.1:4317": f"127.0.0.1:{ports['otlp']}",
        },
    )
    derive(
        ENVOY / "envoy.yaml",
        folder / "envoy.yaml",
        {
            "address: 0.0.0.0": "address: 127.0.0.1",
            "port_value: 8443": f"port_value: {ports['inbound']}",
            "port_value: 9902": f"port_value: {ports['probe']}",
            "port_value: 9901": f"port_value: {ports['admin']}",
            "port_value: 8080": f"port_value: {ports['upstream']}",
            "/run/doorward/envoy/authz.sock": socket_path,
            "/etc/envoy/": f"{folder}/",
            # The demo shows what doorward says of a call without a certificate too.
            "require_client_certificate: true": "require_client_certificate: false",
        },
    )
    certs = folder / "certs"
    derive(
        ENVOY / "certificate.yaml",
        folder / "certificate.yaml",
        {"/run/spiffe/tls": certs / "orders", "/run/spiffe": certs},
    )
    derive(ENVOY / "trust.yaml", folder / "trust.yaml", {"/run/spiffe": certs})

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


def derive(source: pathlib.Path, target: pathlib.Path, replacements: dict) -> None:
    """Writes `source` to `target` with every old text replaced; one that is not there means that the two files here
    no longer fit together."""
    text = source.read_text()
    for old, new in replacements.items():
        if old not in text:
            sys.exit(f"{source}: `{old}` is not in it, and prepare.py wants to replace it")
        text = text.replace(old, str(new))
    target.write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""What the prepare.py of the examples have in common: free ports, and files made of those that are meant to be used, with
only addresses and paths replaced."""

import pathlib
import socket
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVOY = ROOT / "deploy" / "envoy"


def free_ports(*names: str) -> dict[str, int]:
    """Ports that were free a moment ago, by name. All are held until the last is known, so that none comes twice."""
    sockets = [socket.socket() for _ in names]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(names, ports))


def tell(ports: dict[str, int]) -> None:
    """Prints `name=port` for each port taken, for the shell to read."""
    for name, port in ports.items():
        print(f"{name}={port}")


def derive(source: pathlib.Path, target: pathlib.Path, replacements: dict) -> None:
    """Writes `source` to `target` with every old text replaced; one that is not there means that the two files no longer
    fit together."""
    text = source.read_text()
    for old, new in replacements.items():
        if old not in text:
            sys.exit(f"{source}: `{old}` is not in it, and prepare.py wants to replace it")
        text = text.replace(old, str(new))
    target.write_text(text)


def own_doorward(here: pathlib.Path, folder: pathlib.Path, ports: dict[str, int], more: dict) -> None:
    """doorward.yaml of the example at `here` for `folder`, with the socket there and the port `operations`."""
    derive(
        here / "doorward.yaml",
        folder / "doorward.yaml",
        {
            "/run/doorward/envoy/authz.sock": folder / "authz.sock",
            "127.0.0.1:9919": f"127.0.0.1:{ports['operations']}",
            **more,
        },
    )


def inbound_envoy(folder: pathlib.Path, ports: dict[str, int], svid: str, more: dict | None = None) -> None:
    """deploy/envoy for `folder`: in front of the port `upstream`, as the workload whose SVID is certs/`svid`."""
    certs = folder / "certs"
    derive(
        ENVOY / "envoy.yaml",
        folder / "envoy.yaml",
        {
            "address: 0.0.0.0": "address: 127.0.0.1",
            "port_value: 8443": f"port_value: {ports['inbound']}",
            "port_value: 9902": f"port_value: {ports['probe']}",
            "port_value: 9901": f"port_value: {ports['admin']}",
            "port_value: 8080": f"port_value: {ports['upstream']}",
            "/run/doorward/envoy/authz.sock": folder / "authz.sock",
            "/etc/envoy/": f"{folder}/",
            **(more or {}),
        },
    )
    derive(
        ENVOY / "certificate.yaml",
        folder / "certificate.yaml",
        {"/run/spiffe/tls": certs / svid, "/run/spiffe": certs},
    )
    derive(ENVOY / "trust.yaml", folder / "trust.yaml", {"/run/spiffe": certs})

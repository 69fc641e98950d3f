"""Lays out the example's folder: the agents' SVIDs, the policy, and what doorward and Envoy are told, with free ports.

    prepare.py FOLDER
"""

import json
import pathlib
import shutil
import sys

from layout import derive, free_ports, tell
from svids import make_svids

HERE = pathlib.Path(__file__).resolve().parent
AGENTS = ["support", "notifier"]


def main(folder: pathlib.Path) -> None:
    ports = free_ports("tools", *AGENTS, *(f"{agent}_operations" for agent in AGENTS))
    make_svids(folder / "certs", {agent: [f"spiffe://shop.example/ns/ai/sa/{agent}"] for agent in AGENTS})
    shutil.copytree(HERE / "policy", folder / "policy")
    for agent in AGENTS:
        own = {
            "/run/doorward/envoy/authz.sock": folder / f"{agent}.sock",
            "/run/doorward/control/control.sock": folder / f"{agent}.control",
            "127.0.0.1:9919": f"127.0.0.1:{ports[f'{agent}_operations']}",
            "certs/support": f"certs/{agent}",
            "snapshot: sessions": f"snapshot: {agent}.sessions",
            "records.jsonl": f"{agent}.jsonl",
        }
        derive(HERE / "doorward.yaml", folder / f"{agent}.yaml", own)
    envoy = {
        "static_resources": {
            "listeners": [listener(agent, ports[agent]) for agent in AGENTS],
            "clusters": [*(authorizer(folder, agent) for agent in AGENTS), tools(ports["tools"])],
        }
    }
    (folder / "envoy.json").write_text(json.dumps(envoy, indent=2))
    tell(ports)


def typed(kind: str, fields: dict) -> dict:
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


def socket(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(agent: str, port: int) -> dict:
    """The agent's way out. It is the only process that reaches this port, as in its pod."""
    ext_authz = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": typed(
            "filters.http.ext_authz.v3.ExtAuthz",
            {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": agent}, "timeout": "0.25s"},
                "failure_mode_allow": False,
                "with_request_body": {"max_request_bytes": 65536, "allow_partial_message": False, "pack_as_bytes": True},
            },
        ),
    }
    router = {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", {})}
    # A refusal is a JSON-RPC error with status 200: README.md has what clients make of a 403.
    told = {"check_settings": {"context_extensions": {"doorward-mcp-deny-status": "200"}}}
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "tools", "timeout": "0s"},
        "typed_per_filter_config": {ext_authz["name"]: typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", told)},
    }
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": agent,
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "route_config": {"virtual_hosts": [{"name": "tools", "domains": ["*"], "routes": [route]}]},
            "http_filters": [ext_authz, router],
        },
    )
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": agent, "address": socket(port), "filter_chains": [{"filters": filters}]}


def authorizer(folder: pathlib.Path, agent: str) -> dict:
    http2 = typed(
        "upstreams.http.v3.HttpProtocolOptions", {"explicit_http_config": {"http2_protocol_options": {}}}
    )
    address = {"pipe": {"path": str(folder / f"{agent}.sock")}}
    return {
        "name": agent,
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": endpoints(agent, address),
    }


def tools(port: int) -> dict:
    return {"name": "tools", "type": "STATIC", "load_assignment": endpoints("tools", socket(port))}


def endpoints(cluster: str, address: dict) -> dict:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

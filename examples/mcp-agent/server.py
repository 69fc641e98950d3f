"""The tools behind the agents' Envoys: a customer's record, and a way out. Nothing is posted anywhere; what would be is
counted.

    server.py PORT
"""

import sys

from mcp.server import MCPServer

server = MCPServer("tools")
posted = []


@server.tool()
def read_customer(customer_id: str) -> str:
    """A customer's record."""
    return f"customer {customer_id}: Ada Example, +43 1 234 567"


@server.tool()
def post_external(url: str, text: str) -> str:
    """Posts a text to an address outside."""
    posted.append((url, text))
    return f"posted to {url}, {len(posted)} so far"


if __name__ == "__main__":
    server.run(transport="streamable-http", host="127.0.0.1", port=int(sys.argv[1]), streamable_http_path="/mcp")

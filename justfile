# The verbs, each one line and never the only way to do a thing.

fmt:
    cargo fmt

lint:
    cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings

test:
    bash tests/run.sh

bench:
    bash benches/run.sh

doc:
    cargo doc --no-deps --document-private-items

demo:
    bash examples/quickstart/run.sh

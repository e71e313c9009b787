# Commands of the loop; CONTRIBUTING.md says when.

# Types, formatting, lints.
check:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# All tests, or those of the crate in one folder (memory-store, memory-store/seam, runtime, ...).
test crate="":
    {{ if crate == "" { "cargo test --workspace" } else { "cd " + crate + " && cargo test" } }}

# Everything that must hold before a change lands.
ci:
    .ci/run

# The demo, as a user sees it.
demo:
    cargo run --release -- demo

# What takes longer than the loop allows.
nightly:
    scripts/nightly

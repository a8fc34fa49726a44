# The Rust toolchain and the test runner. Sourced, never run.
# shellcheck shell=bash

RUST_MINIMUM=1.90

require_rust() {
  # sudo and non-login shells often lack it.
  [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] && PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  if ! have cargo || ! have rustc; then
    die "no Rust toolchain: cargo and rustc are not in PATH" "${RUST_ADVICE[@]}"
  fi
  local version
  version=$(rustc --version | awk '{ print $2 }')
  version_at_least "$version" "$RUST_MINIMUM" || die \
    "Rust $RUST_MINIMUM or newer is needed, $(command -v rustc) is $version" "${RUST_ADVICE[@]}"
  say "Rust: $version"
}

RUST_ADVICE=(
  "Debian 12's own rustc is too old. Install rustup (https://rustup.rs; from Debian 13 on: apt-get install rustup),"
  "then: rustup toolchain install stable"
)

require_nextest() {
  if cargo nextest --version >/dev/null 2>&1; then
    say "cargo-nextest: $(cargo nextest --version | awk 'NR == 1 { print $2 }')"
    return
  fi
  say "cargo-nextest: installing (compiles for some minutes)"
  retry 2 cargo install cargo-nextest --locked --quiet || die "cargo-nextest could not be installed" \
    "try by hand: cargo install cargo-nextest --locked"
}

# version_at_least HAVE WANT, dotted numbers
version_at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

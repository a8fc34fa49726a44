# The Debian packages that a build and the tests need. Sourced, never run.
# shellcheck shell=bash

PACKAGES=(
  # SPDK, DPDK and ISA-L: compilers, and the libraries they are linked with.
  gcc make pkg-config meson ninja-build nasm autoconf automake libtool python3
  libaio-dev libnuma-dev uuid-dev libssl-dev
  # What the recipe itself calls: tar -J, ps (DPDK's makefile), file keys to verify sources by.
  xz-utils procps debian-archive-keyring
  # Rust: bindgen's parser; the C and assembler parts of crates.
  libclang-dev g++ ca-certificates git
  # Volume import and export (raw, qcow2), and the file system image of the demo.
  qemu-utils e2fsprogs
  # The client in Python, of the tests and of examples/: gRPC, and what makes its stubs from our .proto files.
  python3-grpcio protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
)

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [[ ${#missing[@]} == 0 ]]; then
    say "Debian packages: all ${#PACKAGES[@]} there"
    return
  fi
  say "Debian packages: installing ${missing[*]}"
  # An update that fails for one of the machine's sources may still be enough; the installation decides.
  retry 3 apt_get update || warn "apt-get update failed, going on with the package lists that are there"
  retry 3 apt_get install --no-install-recommends "${missing[@]}" >/dev/null || die \
    "Debian packages could not be installed: ${missing[*]}" \
    "is there a network, and do /etc/apt/sources.list* name a Debian mirror? apt's own message is above"
}

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# Another apt may be at work on this machine: wait for its lock, but not for ever.
apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
    -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@"
}

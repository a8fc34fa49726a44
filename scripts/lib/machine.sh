# Is this a machine that Corriente can be built and run on? Sourced, never run.
# shellcheck shell=bash

# The instruction sets of x86-64-v2, the baseline that SPDK, DPDK and the Rust code are built for, as /proc/cpuinfo
# spells them (sse3 is "pni" there).
X86_64_V2_FLAGS=(cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2)

# Compiling and linking on all cores peaks below this.
BUILD_MEMORY_MIB=2048

require_machine() {
  require_root
  require_x86_64_v2
  require_debian_12
  require_build_memory
}

require_root() {
  [[ $(id -u) == 0 ]] || die "this script must run as root (it installs packages and reserves hugepages)" \
    "run it again with sudo, or as root"
}

require_x86_64_v2() {
  local machine
  machine=$(uname -m)
  [[ $machine == x86_64 ]] || die "Corriente is built for x86-64, this machine is $machine"
  local flags flag missing=()
  flags=" $(grep -m1 '^flags' /proc/cpuinfo | cut -d: -f2) "
  for flag in "${X86_64_V2_FLAGS[@]}"; do
    [[ $flags == *" $flag "* ]] || missing+=("$flag")
  done
  [[ ${#missing[@]} == 0 ]] || die "this CPU is below the x86-64-v2 baseline: it lacks ${missing[*]}" \
    "in a virtual machine choose another CPU model, e.g. qemu's -cpu x86-64-v2 or -cpu host"
}

require_debian_12() {
  local id='' like='' version='' name=unknown
  if [[ -r /etc/os-release ]]; then
    # Its own shell: os-release sets many variables.
    IFS='|' read -r id like version name < <(
      # shellcheck source=/dev/null
      . /etc/os-release && printf '%s|%s|%s|%s\n' "${ID:-}" "${ID_LIKE:-}" "${VERSION_ID:-}" "${PRETTY_NAME:-unknown}"
    )
  fi
  [[ $id == debian ]] && [[ -z $version || ${version%%.*} -ge 12 ]] && return
  [[ $id == debian ]] && die "Debian 12 or newer is needed, this is $name" "upgrade it, or use a Debian 12 container or virtual machine"
  [[ " $like " == *" debian "* ]] || die "Debian 12 or newer is needed, this is $name" \
    "use a Debian 12 container or virtual machine"
  warn "made for Debian 12 or newer and not tried on $name"
}

require_build_memory() {
  local available
  available=$(memory_available_mib)
  ((available >= BUILD_MEMORY_MIB)) || die \
    "too little memory: a build needs about $BUILD_MEMORY_MIB MiB, $available MiB are available" \
    "stop something, add memory, or give hugepages back: scripts/setup --release-hugepages"
}

memory_available_mib() { awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo; }

# require_disk_space DIRECTORY MIB
require_disk_space() {
  local free
  free=$(($(stat -f -c '%a * %S' "$1") / 1048576))
  ((free >= $2)) || die "too little disk space: $2 MiB are needed in $1, $free MiB are free" \
    "make room, or choose another place with CORRIENTE_CACHE=/some/directory"
}

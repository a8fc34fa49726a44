# What virtual machines are made of: QEMU, a kernel with its modules, busybox. Debian packages, unpacked into our cache
# and never installed. Sourced, never run.
#
# tests/lab/cache.rs looks for it at ${CORRIENTE_CACHE:-/var/cache/corriente}/lab/current.
# shellcheck shell=bash

LAB_CACHE=${CORRIENTE_CACHE:-/var/cache/corriente}/lab

# QEMU 10 and kernel 6.12 belong together: under QEMU 7.2 that kernel crashes at random places.
LAB_SUITE=bookworm
LAB_BACKPORTS=bookworm-backports
# Downloads, what is unpacked, and what is made of it.
LAB_DISK_MIB=700
# Raise it when a step below changes what is kept: older caches are then not used any more.
LAB_RECIPE=1

# Those of the cloud kernel that are not built in, and that a test may load: the network, the initiator, drivers that
# leave a PCI function to user space, virtio disks. What they need in turn is found by depmod.
LAB_MODULES=(virtio_net virtio_blk nvme-tcp uio_pci_generic vfio-pci vfio_iommu_type1)

# Offsets of Linux's x86 boot protocol: setup_sects, payload_offset, payload_length. The kernel's build appends the
# unpacked size, 4 bytes, to the payload.
KERNEL_PAYLOAD='
import struct, sys
image = open(sys.argv[1], "rb").read()
start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
length = struct.unpack_from("<I", image, 0x24C)[0]
sys.stdout.buffer.write(image[start : start + length - 4])
'

require_lab() {
  [[ $LAB_CACHE == /* ]] || die "CORRIENTE_CACHE must be an absolute path, it is '$CORRIENTE_CACHE'"
  mkdir -p "$LAB_CACHE" || die "$LAB_CACHE cannot be made" "choose another place with CORRIENTE_CACHE=/some/directory"
  local lock
  exec {lock}>"$LAB_CACHE/.lock"
  if ! flock -n "$lock"; then
    say "lab: another fetch is at work on $LAB_CACHE, waiting"
    flock -w 600 "$lock" || die "another fetch has held $LAB_CACHE/.lock for ten minutes" \
      "see who it is: fuser -v $LAB_CACHE/.lock"
  fi
  [[ -f $LAB_CACHE/current/complete-$LAB_RECIPE ]] || fetch_lab
  exec {lock}>&-
  say "lab: $(<"$LAB_CACHE/current/complete-$LAB_RECIPE") in $LAB_CACHE"
}

# Ends with a complete directory that `current` names, or with everything as it was.
fetch_lab() {
  require_lab_host
  require_disk_space "$LAB_CACHE" "$LAB_DISK_MIB"
  rm -rf "$LAB_CACHE"/.fetch.* # left by a fetch that was killed; we hold the lock
  local work kept old
  work=$(mktemp -d "$LAB_CACHE/.fetch.XXXXXX")
  kept=$LAB_CACHE/$(date -u +%Y%m%dT%H%M%SZ)
  ( # a shell of its own, so that its trap cleans up whatever happens
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    chmod 755 "$work"
    mkdir -p "$work/tree/root" "$work/download"
    download_lab "$work"
    unpack_lab "$work" "$work/tree/root"
    extract_kernel "$work/tree"
    collect_modules "$work/tree"
    describe_lab "$work/tree"
    mv -T "$work/tree" "$kept"
    ln -sfn "${kept##*/}" "$LAB_CACHE/current.new"
    mv -T "$LAB_CACHE/current.new" "$LAB_CACHE/current"
  )
  for old in "$LAB_CACHE"/2*; do
    [[ $old -ef $LAB_CACHE/current ]] || rm -rf "$old"
  done
}

# The binaries are taken for this release's libraries, and the guests get the host's libc.
require_lab_host() {
  [[ $(uname -m) == x86_64 ]] || die "the lab's machines are x86-64, this one is $(uname -m)"
  local codename='' tool missing=()
  # shellcheck source=/dev/null
  [[ ! -r /etc/os-release ]] || codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  [[ $codename == "$LAB_SUITE" ]] || die "the lab is made for Debian 12 ($LAB_SUITE), this is ${codename:-unknown}" \
    "use a Debian 12 container"
  for tool in apt-get dpkg-deb python3 xz zstd mkfs.ext4; do have "$tool" || missing+=("$tool"); done
  [[ ${#missing[@]} == 0 ]] || die "these programs are missing: ${missing[*]}" "scripts/setup installs all but zstd" \
    "apt-get install zstd"
}

# download_lab WORK: leaves WORK/download/*.deb. Resolved anew each time: the archive drops a kernel with its successor.
download_lab() {
  local work=$1 kernel package
  private_lab_apt "$work"
  export APT_CONFIG=$work/apt/apt.conf
  say "lab: fetching QEMU, a kernel and busybox"
  retry 3 apt-get -qq update || die "the package lists of $LAB_SUITE and $LAB_BACKPORTS could not be fetched" \
    "is there a network? apt's own message is above; CORRIENTE_DEBIAN_MIRROR=URL chooses another mirror"
  kernel=$(apt-cache depends "linux-image-cloud-amd64/$LAB_BACKPORTS" | awk '$1 == "Depends:" { print $2; exit }')
  [[ -n $kernel ]] || die "$LAB_BACKPORTS has no kernel linux-image-cloud-amd64"
  # What this host has installed is not fetched again, but for QEMU itself. Nothing is installed or removed.
  retry 3 apt-get -qq -y --download-only --reinstall -t "$LAB_BACKPORTS" install \
    qemu-system-x86 qemu-system-data seabios >/dev/null || die "QEMU could not be fetched; apt's own message is above"
  mv "$work"/apt/cache/archives/*.deb "$work/download/"
  cd "$work/download" || exit
  for package in "$kernel/$LAB_BACKPORTS" busybox-static; do
    retry 3 apt-get -qq download "$package" || die "the package $package could not be fetched; apt's own message is above"
  done
}

# An apt configuration with a state of its own, as an unprivileged user may have.
private_lab_apt() {
  local work=$1 apt=$1/apt mirror
  mirror=$(debian_mirror)
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources}
  # apt fetches as this user where there is root to give up.
  if [[ $(id -u) == 0 ]] && id _apt >/dev/null 2>&1; then
    chown _apt "$apt"/{lists,cache/archives}/partial "$work/download"
  fi
  cat >"$apt/sources/lab.sources" <<END
Types: deb
URIs: $mirror
Suites: $LAB_SUITE $LAB_BACKPORTS
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
  cat >"$apt/apt.conf" <<END
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
APT::Update::Error-Mode "any";
APT::Update::Post-Invoke-Success "";
APT::Install-Recommends "false";
Debug::NoLocking "true";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
END
}

unpack_lab() {
  local work=$1 root=$2 package
  for package in "$work"/download/*.deb; do
    logged "$work/log" "unpacking ${package##*/}" dpkg-deb -x "$package" "$root"
  done
  # busybox's depmod and the kernel's package agree on this place only.
  ls "$root/lib/modules" >"$root/../kernel-release"
}

# The kernel as an ELF image, which QEMU boots a second faster than one that unpacks itself in emulation.
extract_kernel() {
  local tree=$1 unpacked=1
  python3 -c "$KERNEL_PAYLOAD" "$tree/root/boot/vmlinuz-$(<"$tree/kernel-release")" | zstd -dcq >"$tree/vmlinux" ||
    unpacked=0
  ((unpacked)) || die "the kernel could not be unpacked" "is its payload still zstd? see scripts/lib/lab.sh"
  rm -rf "$tree/root/boot"
}

# Leaves TREE/modules: the modules and what they need, unpacked, with their modules.dep.
collect_modules() {
  local tree=$1 release from to name needed=()
  local busybox=$tree/root/bin/busybox
  release=$(<"$tree/kernel-release")
  from=$tree/root/lib/modules/$release
  to=$tree/modules/lib/modules/$release
  find "$from" -name '*.ko.xz' -exec xz -dq {} +
  "$busybox" depmod -b "$tree/root" "$release" || die "the kernel's modules could not be listed"
  for name in "${LAB_MODULES[@]}"; do
    # "kernel/a/b.ko: kernel/c.ko kernel/d.ko"; a module's file has dashes or underscores.
    mapfile -t -O "${#needed[@]}" needed < <(
      sed -nE "s|^(\S*/${name//[-_]/[-_]}\.ko):|\1|p" "$from/modules.dep" | tr ' ' '\n' | grep .
    )
  done
  for name in "${needed[@]}"; do
    mkdir -p "$to/${name%/*}"
    cp "$from/$name" "$to/$name"
  done
  cp "$from/modules.builtin" "$to/"
  "$busybox" depmod -b "$tree/modules" "$release" || die "the lab's modules could not be listed"
  for name in "${LAB_MODULES[@]}"; do
    grep -q "/${name//[-_]/[-_]}\.ko:" "$to/modules.dep" || die "kernel $release has no module $name"
  done
  rm -rf "$tree/root/lib/modules"
}

# Proves that QEMU runs from there, and says what the cache has.
describe_lab() {
  local tree=$1 qemu libraries=$1/root/usr/lib/x86_64-linux-gnu:$1/root/lib/x86_64-linux-gnu
  qemu=$(LD_LIBRARY_PATH=$libraries "$tree/root/usr/bin/qemu-system-x86_64" --version) ||
    die "the unpacked QEMU does not run on this machine; its own message is above"
  qemu=$(sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p' <<<"$qemu")
  version_at_least "$qemu" 10.0 || die "QEMU $qemu was fetched, 10.0 or newer is needed"
  echo "QEMU $qemu, Linux $(<"$tree/kernel-release")" >"$tree/complete-$LAB_RECIPE"
}

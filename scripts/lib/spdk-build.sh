# The recipe for SPDK v20.07 with its DPDK and ISA-L, out of Debian's `ceph` source package. Sourced, never run.
#
# apt verifies the tarball: Debian's key signs the release file, that names the hash of the source index, that the
# tarball's. Its state is private (a temporary directory), the machine's own sources stay as they are.
# shellcheck shell=bash

SPDK_SUITE=trixie
# ceph 18.2.7+ds; any later source package of the suite is taken instead if this one is gone and still has SPDK 20.07.
SPDK_TARBALL_SHA256=71c0795fa0d6312ec7b57dee4031559b7e62e086a78e6ae1ad8549e0b351e28f
# 148 MB tarball, 105 MB source, 600 MB at the height of the build.
SPDK_BUILD_DISK_MIB=1024

# Raise it when a step below changes in a way that the two lists do not show: old trees are then not used any more.
SPDK_RECIPE=1
# Never the machine's own instruction set: a cached tree must run on the next machine too.
SPDK_CONFIGURE=(--disable-tests --disable-unit-tests --disable-examples --target-arch=x86-64-v2)
# Only what we link, in the order that SPDK's own makefiles would build it.
SPDK_LIBRARIES=(
  lib/{log,util,conf,thread,json,jsonrpc,rpc,trace,notify,sock,accel,vmd,nvme,virtio,blob,lvol,bdev,nvmf,event,env_dpdk}
  module/{blob/bdev,sock/posix}
  module/bdev/{malloc,null,aio,error,delay,lvol,nvme,virtio}
  module/event/subsystems/{bdev,accel,sock,nvmf,vmd}
)

spdk_recipe_name() {
  local hash
  hash=$(printf '%s\n' "$SPDK_RECIPE" "${SPDK_CONFIGURE[@]}" "${SPDK_LIBRARIES[@]}" | sha256sum)
  printf '20.07-%s' "${hash:0:12}"
}

# Ends with a finished tree in $SPDK_CACHE, or with nothing there.
build_spdk() {
  say "SPDK: building v20.07 from Debian's ceph source package (some minutes, once)"
  require_disk_space "$SPDK_CACHE" "$SPDK_BUILD_DISK_MIB"
  rm -rf "$SPDK_CACHE"/.build.* # left by a build that was killed; we hold the lock
  local build
  build=$(mktemp -d "$SPDK_CACHE/.build.XXXXXX")
  ( # a shell of its own, so that its trap cleans up whatever happens
    trap 'rm -rf "$build"' EXIT
    trap 'exit 130' INT TERM HUP
    chmod 755 "$build"
    # What a caller's shell, make or cargo may have set must not leak into the build.
    unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS CC MAKEFLAGS MAKELEVEL DESTDIR
    fetch_spdk "$build"
    make_spdk "$build/source"
    pack_spdk "$build/source" "$build/tree"
    mv -T "$build/tree" "$SPDK_CACHE/$(spdk_recipe_name)-$(<"$build/sha256")"
  )
}

# fetch_spdk BUILD: leaves BUILD/source and BUILD/sha256 (the first twelve digits).
fetch_spdk() {
  local build=$1 version sha256
  export APT_CONFIG=$build/apt/apt.conf
  private_apt "$build"
  retry 3 apt-get -qq update || die "Debian's $SPDK_SUITE source index could not be fetched" \
    "is there a network? apt's own message is above; CORRIENTE_DEBIAN_MIRROR=URL chooses another mirror"
  read -r version sha256 < <(choose_ceph_source) || die "the $SPDK_SUITE suite of $(debian_mirror) has no ceph source package" \
    "give a built SPDK instead: SPDK_DIR=/path/to/spdk, see docs/setup.md"
  [[ $sha256 == "$SPDK_TARBALL_SHA256" ]] || warn "the known tarball is gone from Debian, trying ceph $version"
  note "fetching ceph $version (148 MB, only src/spdk is used)"
  (cd "$build/download" && retry 3 apt-get -qq source --download-only --tar-only "ceph=$version") || die \
    "the ceph source tarball could not be fetched; apt's own message is above" "try again: nothing is left half done"
  note "unpacking src/spdk"
  mkdir "$build/source"
  logged "$build/log" "unpacking SPDK" tar -xJf "$build"/download/ceph_*.orig.tar.xz -C "$build/source" \
    --strip-components=3 --wildcards '*/src/spdk'
  rm -rf "$build/download"
  local found
  found=$(spdk_version "$build/source")
  [[ $found == 20.07 ]] || die "ceph $version carries SPDK $found, 20.07 was expected" \
    "give a built SPDK instead: SPDK_DIR=/path/to/spdk, see docs/setup.md"
  printf '%s' "${sha256:0:12}" >"$build/sha256"
}

# An apt configuration with one source and a state of its own.
private_apt() {
  local build=$1 mirror apt=$1/apt
  mirror=$(APT_CONFIG='' debian_mirror)
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources} "$build/download"
  # apt fetches as this user.
  if id _apt >/dev/null 2>&1; then chown _apt "$apt"/{lists,cache/archives}/partial "$build/download"; fi
  cat >"$apt/sources/spdk.sources" <<END
Types: deb-src
URIs: $mirror
Suites: $SPDK_SUITE
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
  cat >"$apt/apt.conf" <<END
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
APT::Update::Error-Mode "any";
APT::Update::Post-Invoke-Success "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
END
}

# The mirror that this machine's own apt takes Debian from.
debian_mirror() {
  local mirror=${CORRIENTE_DEBIAN_MIRROR:-}
  if [[ -z $mirror ]]; then
    # Origin and label are known to apt only once it has the release files.
    apt_get update >/dev/null 2>&1 || true
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Created-By: Packages' | head -n 1)
  fi
  [[ -n $mirror ]] || die "apt on this machine knows no Debian mirror" \
    "name one: CORRIENTE_DEBIAN_MIRROR=URL, or add a Debian source to /etc/apt/sources.list.d and run apt-get update"
  printf '%s' "$mirror"
}

# Prints "VERSION SHA256-OF-TARBALL" of the package with the known tarball, else of the newest one.
choose_ceph_source() {
  apt-cache showsrc --only-source ceph | awk -v known="$SPDK_TARBALL_SHA256" '
    /^Version:/ { version = $2 }
    /^Checksums-Sha256:/ { sums = 1; next }
    /^[^ ]/ { sums = 0 }
    sums && $3 ~ /\.orig\.tar\.xz$/ { print ($1 == known), version, $1 }
  ' | sort -k1,1nr -k2,2Vr | awk 'NR == 1 { print $2, $3 }'
}

make_spdk() {
  local source=$1 log=$1/../log jobs library
  jobs=$(nproc)
  cd "$source" || exit
  note "configuring"
  logged "$log" "SPDK's configure" ./configure "${SPDK_CONFIGURE[@]}"
  # The top-level makefile would do these first, but it also hands its goals down to DPDK and ISA-L, and stops there.
  mkdir -p build/lib build/include/spdk
  logged "$log" "SPDK's config.h" make include/spdk/config.h
  note "building ISA-L"
  logged "$log" "ISA-L's build" make -j"$jobs" -C isalbuild all
  note "building DPDK"
  logged "$log" "DPDK's build" make -j"$jobs" -C dpdkbuild
  note "building ${#SPDK_LIBRARIES[@]} SPDK libraries"
  for library in "${SPDK_LIBRARIES[@]}"; do
    logged "$log" "the build of SPDK's $library" make -j"$jobs" -C "$library"
  done
}

# pack_spdk SOURCE TREE: keeps the headers and the archives, in the places where a built source tree has them.
pack_spdk() {
  local source=$1 tree=$2
  mkdir -p "$tree"/{build/lib,dpdk/build/lib,isa-l/.libs}
  cd "$source" || exit
  cp -R include LICENSE "$tree/"
  find lib module -name '*.h' -exec cp --parents -t "$tree" {} +
  cp build/lib/*.a "$tree/build/lib/"
  cp -R dpdk/build/include "$tree/dpdk/build/"
  cp dpdk/build/lib/*.a "$tree/dpdk/build/lib/"
  cp isa-l/.libs/libisal.a "$tree/isa-l/.libs/"
  check_spdk_tree "$tree"
}

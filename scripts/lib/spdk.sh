# Where SPDK comes from: the user's SPDK_DIR, or a tree in our cache, built once (spdk-build.sh). Sourced, never run.
#
# spdk-sys/build.rs looks at the same two places: SPDK_DIR, else ${CORRIENTE_CACHE:-/var/cache/corriente}/spdk/current.
# shellcheck shell=bash

SPDK_CACHE=${CORRIENTE_CACHE:-/var/cache/corriente}/spdk

require_spdk() {
  if [[ -n ${SPDK_DIR:-} ]]; then
    check_spdk_tree "$SPDK_DIR"
    say "SPDK: $(spdk_version "$SPDK_DIR") from SPDK_DIR=$SPDK_DIR"
    return
  fi
  # Cargo's build script reads it too, from another directory.
  [[ $SPDK_CACHE == /* ]] || die "CORRIENTE_CACHE must be an absolute path, it is '$CORRIENTE_CACHE'"
  mkdir -p "$SPDK_CACHE"
  # One build at a time, whichever checkout asks; the others wait and then find it done.
  local lock
  exec {lock}>"$SPDK_CACHE/.lock"
  if ! flock -n "$lock"; then
    say "SPDK: another setup works on $SPDK_CACHE, waiting"
    flock -w 1800 "$lock" || die "another setup has held $SPDK_CACHE/.lock for half an hour" \
      "see who it is: fuser -v $SPDK_CACHE/.lock"
  fi
  local tree
  tree=$(cached_spdk)
  if [[ -z $tree ]]; then
    build_spdk
    tree=$(cached_spdk)
  fi
  ln -sfn "${tree##*/}" "$SPDK_CACHE/current.new"
  mv -T "$SPDK_CACHE/current.new" "$SPDK_CACHE/current"
  exec {lock}>&-
  say "SPDK: $(spdk_version "$tree") in $tree"
}

# The tree in the cache that today's recipe made, if there is one. Its name ends in the hash of the tarball: any of
# them has the accepted version, so the newest will do and no network is needed to choose.
cached_spdk() {
  local tree newest=''
  for tree in "$SPDK_CACHE/$(spdk_recipe_name)"-*; do
    [[ -d $tree ]] || continue
    [[ -z $newest || $tree -nt $newest ]] && newest=$tree
  done
  printf '%s' "$newest"
}

# A tree we can link with: configured and built with static libraries, of a release the C shim knows.
check_spdk_tree() {
  local dir=$1 file
  [[ $dir == /* ]] || die "SPDK_DIR must be an absolute path, it is '$dir'"
  [[ -d $dir ]] || die "SPDK_DIR=$dir is not a directory"
  for file in include/spdk/bdev.h module/bdev/nvme/bdev_nvme.h; do
    [[ -f $dir/$file ]] || die "SPDK_DIR=$dir is not an SPDK source tree: it has no $file" \
      "an installed prefix is not enough, internal headers are needed: see docs/setup.md"
  done
  for file in include/spdk/version.h build/lib/libspdk_{bdev,nvmf,env_dpdk}.a dpdk/build/lib/librte_eal.a; do
    [[ -f $dir/$file ]] || die "SPDK_DIR=$dir is not configured and built: it has no $file" \
      "configure and make it, with static libraries and the DPDK of its own tree: see docs/setup.md"
  done
  spdk_version_accepted "$(spdk_version "$dir")" || die \
    "SPDK_DIR=$dir is SPDK $(spdk_version "$dir"); only 20.07, and 24.09 and newer, are accepted: see docs/setup.md" \
    "unset SPDK_DIR to let this script build 20.07 from Debian's archive"
}

spdk_version() {
  awk '$1 == "#define" && $2 == "SPDK_VERSION_MAJOR" { major = $3 }
    $1 == "#define" && $2 == "SPDK_VERSION_MINOR" { minor = $3 }
    END { printf "%d.%02d", major, minor }' "$1/include/spdk/version.h"
}

spdk_version_accepted() { [[ $1 == 20.07 ]] || version_at_least "$1" 24.09; }

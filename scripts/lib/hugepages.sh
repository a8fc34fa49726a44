# Hugepages for one run, added to what the machine has and given back after it. Sourced, never run.
#
# Every reservation has an owner: "setup" (kept until it is released or the machine restarts) or a process id. A file
# per owner records "PROMISED ADDED": how many pages it may use, and how many the pool was grown by for it, so that
# giving back takes away exactly those and never what somebody else reserved.
# shellcheck shell=bash

# shellcheck disable=SC2034 # scripts/setup uses it
DEFAULT_HUGEPAGES_MIB=2048
HUGEPAGE_MIB=2
HUGEPAGES_POOL=/sys/kernel/mm/hugepages/hugepages-2048kB
HUGEPAGES_MOUNT=/dev/hugepages
# In /run, that a restart empties as it does the pool.
HUGEPAGES_OWNERS=/run/corriente/hugepages
# What the rest of the machine keeps when we take hugepages.
MEMORY_LEFT_MIB=1024

# reserve_hugepages OWNER MIB: the pool has this much more room than others use or were promised.
reserve_hugepages() { with_pool_lock add_pages "$@"; }

# release_hugepages OWNER: gives back what was added for it; nothing if nothing was.
release_hugepages() { with_pool_lock drop_pages "$1"; }

with_pool_lock() {
  mkdir -p "$HUGEPAGES_OWNERS"
  local lock
  exec {lock}>"$HUGEPAGES_OWNERS/.lock"
  flock -w 60 "$lock" || die "another process has held $HUGEPAGES_OWNERS/.lock for a minute" \
    "see who it is: fuser -v $HUGEPAGES_OWNERS/.lock"
  "$@"
  exec {lock}>&-
}

add_pages() {
  local owner=$1 wanted promised=0 added=0 missing before
  wanted=$((($2 + HUGEPAGE_MIB - 1) / HUGEPAGE_MIB))
  [[ -d $HUGEPAGES_POOL ]] || die "this kernel offers no 2 MiB hugepages" \
    "run nodes without them: memory.mode = \"no-huge\" in the node's configuration"
  drop_dead_owners
  mount_hugepages
  if [[ -f $HUGEPAGES_OWNERS/$owner ]]; then read -r promised added <"$HUGEPAGES_OWNERS/$owner"; fi
  if ((wanted > promised)); then
    missing=$((wanted - $(pages_not_promised_to_others "$owner")))
    if ((missing > 0)); then
      require_memory_for $((missing * HUGEPAGE_MIB))
      before=$(<"$HUGEPAGES_POOL/nr_hugepages")
      grow_pool "$before" "$missing"
      added=$((added + missing))
    fi
    echo "$wanted $added" >"$HUGEPAGES_OWNERS/$owner"
  fi
  say "hugepages: $(<"$HUGEPAGES_POOL/free_hugepages") of $(<"$HUGEPAGES_POOL/nr_hugepages") free (2 MiB each), mounted at $HUGEPAGES_MOUNT"
}

# Free pages less what others were promised, who may have taken it already or be about to.
pages_not_promised_to_others() {
  local file promised pages
  pages=$(($(<"$HUGEPAGES_POOL/free_hugepages") - $(<"$HUGEPAGES_POOL/resv_hugepages")))
  for file in "$HUGEPAGES_OWNERS"/*; do
    [[ -f $file && ${file##*/} != "$1" ]] || continue
    read -r promised _ <"$file"
    pages=$((pages - promised))
  done
  echo $((pages > 0 ? pages : 0))
}

require_memory_for() {
  local available
  available=$(memory_available_mib)
  (($1 + MEMORY_LEFT_MIB <= available)) || die \
    "too little memory for hugepages: $1 MiB more are needed, $available MiB are available, $MEMORY_LEFT_MIB MiB of them stay free" \
    "ask for less (scripts/setup --hugepages MIB), or run nodes without: memory.mode = \"no-huge\" in the node's configuration"
}

# grow_pool BEFORE MISSING: the kernel gives what it finds in one piece; compacting memory lets it find more.
grow_pool() {
  local goal=$(($1 + $2)) got try
  for try in 1 2 3; do
    set_pool "$goal" || die "the kernel refuses hugepages: $HUGEPAGES_POOL/nr_hugepages cannot be written" \
      "in a container, reserve them on its host: sysctl vm.nr_hugepages=$goal"
    got=$(<"$HUGEPAGES_POOL/nr_hugepages")
    ((got >= goal)) && return
    note "got $((got - $1)) of $2 pages, compacting memory (try $try of 3)"
    echo 1 2>/dev/null >/proc/sys/vm/compact_memory || true
  done
  set_pool "$1" || true
  die "the kernel found only $((got - $1)) of $2 hugepages: its free memory is in small pieces" \
    "drop its caches and try again: sync; echo 3 >/proc/sys/vm/drop_caches" \
    "or restart the machine, or reserve at boot with the kernel argument hugepages=$goal"
}

set_pool() { echo "$1" 2>/dev/null >"$HUGEPAGES_POOL/nr_hugepages"; }

drop_pages() {
  local file=$HUGEPAGES_OWNERS/$1 added
  if [[ ! -f $file ]]; then
    say "hugepages: nothing to give back"
    return
  fi
  read -r _ added <"$file"
  if ((added > 0)); then
    set_pool $(($(<"$HUGEPAGES_POOL/nr_hugepages") - added)) || warn "$added hugepages could not be given back"
  fi
  rm -f "$file"
  say "hugepages: $added pages given back"
}

# A run that was killed could not give back its pages.
drop_dead_owners() {
  local file owner
  for file in "$HUGEPAGES_OWNERS"/[0-9]*; do
    [[ -f $file ]] || continue
    owner=${file##*/}
    [[ -d /proc/$owner ]] || drop_pages "$owner"
  done
}

mount_hugepages() {
  local options
  options=$(awk -v at="$HUGEPAGES_MOUNT" '$2 == at && $3 == "hugetlbfs" { print $4 }' /proc/mounts | tail -n 1)
  if [[ -z $options ]]; then
    mkdir -p "$HUGEPAGES_MOUNT"
    mount -t hugetlbfs -o pagesize=2M nodev "$HUGEPAGES_MOUNT" || die "hugepages cannot be mounted at $HUGEPAGES_MOUNT" \
      "in a container, mount them from its host, or give it CAP_SYS_ADMIN"
  elif [[ $options == *pagesize=* && ",$options," != *,pagesize=2M,* ]]; then
    die "$HUGEPAGES_MOUNT is mounted with another page size: $options" \
      "mount it for 2 MiB pages: umount $HUGEPAGES_MOUNT && mount -t hugetlbfs -o pagesize=2M nodev $HUGEPAGES_MOUNT"
  fi
}

# How the scripts talk: short lines, and errors that name the next step. Sourced, never run.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die WHAT WHAT-TO-DO...: one line for what is wrong, one more for each thing the reader can do about it.
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# retry TRIES COMMAND...: for what goes over a network. Waits 2, 4, 8... seconds between tries.
retry() {
  local tries=$1 try=1
  shift
  until "$@"; do
    ((try < tries)) || return 1
    note "failed, try $((try + 1)) of $tries in $((1 << try)) s"
    sleep $((1 << try))
    try=$((try + 1))
  done
}

# logged LOG STEP COMMAND...: runs quietly. If it fails, the end of its output is shown and the script stops.
logged() {
  local log=$1 step=$2
  shift 2
  if ! "$@" >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    die "$step failed; its last lines are above" "the command was: $*"
  fi
}

#!/usr/bin/env bash
# Runs the models with Spin. `run.sh` = the quick set of CI (about two minutes of one core, BH_JOBS searches at a time, up to
# 1 GB each); `run.sh full` adds the large searches, one at a time (minutes to an hour, up to 12 GB). Each line is a
# configuration; a `broken` line must be caught. Lines come as the searches end.
# Words of a configuration are split on purpose; runs.sh, sourced below, calls check() and reads mode.
# shellcheck disable=SC2034,SC2086,SC2317
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mode=${1:-quick}
jobs=1
[ "$mode" = full ] || jobs=${BH_JOBS:-$(nproc)}
running=0 started=0
command -v spin >/dev/null || { echo "spin is not installed (apt-get install spin)" >&2; exit 1; }

# Which promise the trail breaks, from the text of the assertion.
why() {
  case $(grep -m1 '^pan:' pan.log) in
    *'sat['*) echo 'a refusal that had no full moment' ;;
    *FORCING*|*forcing*) echo 'a grant above the limit' ;;
    *) sed -n 's/^pan:[0-9]*: //p' pan.log | head -1 ;;
  esac
}

# check NAME expect(holds|broken|cycle-free) file flags...: waits for a free place, then searches beside the others.
# Success is counted, not failure: a search that was killed is none.
check() {
  started=$((started + 1))
  if [ "$jobs" = 1 ]; then (search "$@"); return; fi
  if [ "$running" -ge "$jobs" ]; then wait -n; else running=$((running + 1)); fi
  search "$@" &
}

# In a process and a directory of its own.
search() {
  name=$1 expect=$2 file=$3; shift 3
  start=$(date +%s)
  cd "$(mktemp -d -p "$work")" || exit 1
  opt=-O2
  [ $expect = broken ] && opt=-O0  # found within seconds: the compiler is the longer part
  cflags="$opt -w -DCOLLAPSE -DNOFAIR -DMEMLIM=${BH_MODEL_MB:-6000}"
  run="-m2000000 -E"
  if [ "$expect" = cycle-free ]; then cflags="$cflags -DNP"; run="$run -l"; else cflags="$cflags -DSAFETY"; fi
  if ! spin -a "$@" "$here/$file" >spin.log 2>&1 || ! cc $cflags -o pan pan.c 2>cc.log; then
    echo "FAIL $name: the model does not build"; cat spin.log cc.log; return 1
  fi
  ./pan $run >pan.log 2>&1
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
  complete=yes
  grep -qE 'Search not completed|max search depth too small|out of memory' pan.log && complete=no
  line="$states states, $(($(date +%s) - start)) s"
  case $expect in
    broken) if [ "${errors:-0}" -ge 1 ]; then echo "ok   $name: caught ($line): $(why)"
            else echo "FAIL $name: a broken protocol passed ($line)"; return 1; fi ;;
    *) if [ "${errors:-1}" = 0 ] && [ $complete = yes ]; then echo "ok   $name: holds ($line)"
       else echo "FAIL $name: errors=${errors:-none} complete=$complete ($line)"; head -5 pan.log; return 1; fi ;;
  esac
  echo "$name" >>"$work/good"
}
# shellcheck source=tests/model/runs.sh
. "$here/runs.sh"
wait
[ "$(wc -l <"$work/good")" -eq "$started" ]

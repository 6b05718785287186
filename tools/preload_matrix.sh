#!/usr/bin/env bash
# Runs programs that never touch a GPU with and without LD_PRELOAD=LIB: their stdout, stderr and exit
# status must be the same byte for byte, and nothing in BULKHEAD_DIR may be opened.
# Usage: preload_matrix.sh LIB | --self-test (builds libraries that misbehave; each must be caught)
# Exit 0 clean, 1 a difference, 2 it could not be run.
set -euo pipefail

die() { echo "preload_matrix: $*" >&2; exit 2; }

# Reports every inotify event below a directory until its stdin closes; "ready" once it watches.
# This sees an open that is closed again at once, which looking at /proc would miss.
readonly WATCHER='
import ctypes, os, select, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK)
names = {}
for folder, _, _ in list(os.walk(sys.argv[1])):
    names[libc.inotify_add_watch(fd, folder.encode(), 0xFFF)] = folder
if fd < 0 or -1 in names:
    sys.exit("inotify is not available")
print("ready", flush=True)
def drain():
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return
    at = 0
    while at < len(data):
        wd, mask, _, size = struct.unpack_from("iIII", data, at)
        name = data[at + 16:at + 16 + size].rstrip(b"\0").decode()
        at += 16 + size
        print("event %#x %s" % (mask, os.path.join(names.get(wd, "?"), name)), flush=True)
while True:
    readable, _, _ = select.select([fd, 0], [], [])
    if fd in readable:
        drain()
    if 0 in readable:
        drain()
        break
'

# name~program~arguments. Output must not depend on pids, times or the environment.
cases() {
  cat <<'EOF'
true~/bin/true
bash~bash~-c~echo out; echo err >&2; (exit 3); echo $? | cat; x=$(printf %s a b); echo "$x"; exit 7
bash-signal~bash~-c~kill -TERM $$
python3~python3~-c~import ctypes, subprocess, sys, threading; t = threading.Thread(target=print, args=("thread",)); t.start(); t.join(); ctypes.CDLL("libm.so.6").cos; print(subprocess.run(["/bin/echo", "child"], capture_output=True).stdout); print("err", file=sys.stderr); sys.exit(3)
python3-fork~python3~-c~import os; p = os.fork(); (os._exit(5) if p == 0 else print(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])))
java-version~java~-version
java-run~java~--list-modules
node~node~-e~console.log(JSON.stringify([1, 2])); console.error(require("child_process").execFileSync("/bin/echo", ["child"]).toString()); setTimeout(() => process.exit(4), 1)
EOF
}

# run_case OUT KIND LIB program args: KIND is plain (our environment) or bare (env -i).
run_case() {
  local out=$1 kind=$2 lib=$3 status=0 vars=()
  shift 3
  vars=("BULKHEAD_DIR=$DIR" BULKHEAD_TENANT=matrix BULKHEAD_MEMORY=1GiB)
  if [ "$kind" = bare ]; then vars=(-i); fi
  if [ -n "$lib" ]; then vars+=("LD_PRELOAD=$lib"); fi
  # The outer redirection is for this shell's own report of a signal ("Terminated").
  { env "${vars[@]}" "$@" >"$out.stdout" 2>"$out.stderr" </dev/null || status=$?; } 2>/dev/null
  echo "$status" >"$out.status"
}

watch_start() {
  coproc WATCH { exec python3 -c "$WATCHER" "$DIR"; }
  local line=""
  read -r -t 30 line <&"${WATCH[0]}" || true
  [ "$line" = ready ] || die "cannot watch $DIR"
}

# Writes the events since watch_start to $WORK/events. Not for a subshell: closing the watcher's
# stdin there would leave it open here, and the watcher would wait for ever.
watch_stop() {
  local to=${WATCH[1]} from=${WATCH[0]}
  exec {to}>&-
  timeout 30 cat <&"$from" >"$WORK/events" || die "the watcher does not end"
  exec {from}<&-
}

fail() {
  echo "preload_matrix: $*"
  FAILED=1
}

# compare LIB: the whole matrix. FAILED tells.
compare() {
  local lib=$1 name program kind part line arguments maps
  FAILED=0
  DIR=$WORK/dir
  rm -rf "$DIR"
  mkdir -p "$DIR/tenants/matrix" "$DIR/sim"
  chmod -R go= "$DIR"
  : >"$DIR/node"
  : >"$DIR/tenants/matrix/region"
  maps=$(env LD_PRELOAD="$lib" cat /proc/self/maps 2>/dev/null)
  if [[ $maps != *"$lib"* ]]; then
    fail "$lib is not loaded by LD_PRELOAD at all"
    return
  fi
  while IFS= read -r line; do
    IFS='~' read -r -a arguments <<<"$line"
    name=${arguments[0]}
    program=$(command -v "${arguments[1]}") || die "${arguments[1]} is not installed"
    for kind in plain bare; do
      run_case "$WORK/native" "$kind" "" "$program" "${arguments[@]:2}"
      run_case "$WORK/again" "$kind" "" "$program" "${arguments[@]:2}"
      watch_start
      run_case "$WORK/preload" "$kind" "$lib" "$program" "${arguments[@]:2}"
      watch_stop
      for part in stdout stderr status; do
        cmp -s "$WORK/native.$part" "$WORK/again.$part" || die "$name ($kind): $part differs by itself"
        cmp -s "$WORK/native.$part" "$WORK/preload.$part" && continue
        fail "$name ($kind): $part differs under LD_PRELOAD: $(diff "$WORK/native.$part" "$WORK/preload.$part" |
          sed -n 's/^[<>] //p' | head -n 2 | tr '\n' ' ')"
      done
      [ ! -s "$WORK/events" ] || fail "$name ($kind): touched BULKHEAD_DIR: $(head -n 1 "$WORK/events")"
    done
  done < <(cases | grep -E "$CASES")
  # The watcher itself: a check that sees nothing must not pass.
  watch_start
  cat "$DIR/node" >/dev/null
  watch_stop
  grep -q "/node$" "$WORK/events" || die "the watcher missed an open"
}

self_test() {
  local missed=0 name
  local -A said=([PRINTS]='stderr differs' [OPENS]='touched BULKHEAD_DIR' [EXITS]='(bare): status differs')
  CASES='^bash' # the quick ones
  cat >"$WORK/bad.c" <<'EOF'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void start(void) {
#ifdef PRINTS
  fputs("hello\n", stderr);
#endif
#ifdef OPENS
  const char *dir = getenv("BULKHEAD_DIR");
  if (dir && chdir(dir) == 0) close(open("tenants/matrix/region", O_RDONLY));
#endif
#ifdef EXITS
  if (!getenv("PATH")) _exit(9);
#endif
}
EOF
  for name in PRINTS OPENS EXITS NONE; do
    cc -shared -fPIC "-D$name" -o "$WORK/lib$name.so" "$WORK/bad.c" || die "no C compiler"
    compare "$WORK/lib$name.so" >"$WORK/out"
    if [ "$name" = NONE ]; then
      [ "$FAILED" -eq 0 ] || { echo "self-test: a harmless library was refused"; cat "$WORK/out"; missed=1; }
    elif [ "$FAILED" -eq 0 ] || ! grep -qF "${said[$name]}" "$WORK/out"; then
      echo "self-test: a library that $name was not caught by '${said[$name]}'"
      missed=1
    fi
  done
  return "$missed"
}

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
FAILED=0
CASES=.
case ${1:-} in
  --self-test) self_test ;;
  "") die "usage: preload_matrix.sh LIB | --self-test" ;;
  *)
    [ -f "$1" ] || die "no such library: $1"
    compare "$(readlink -f "$1")"
    [ "$FAILED" -ne 0 ] || echo "preload_matrix: $(cases | wc -l) programs, plain and env -i: no difference"
    exit "$FAILED"
    ;;
esac

#!/usr/bin/env bash
# All checks that need a real NVIDIA GPU. Runs as root or as a user, without a network, on a machine with python3 (torch,
# jax, cupy, triton, pynvml) and nvcc; the binaries come from build/release. A failure stops nothing.
#
#   tests/gpu/run.sh [QUICK=1 in the environment: about 4 minutes instead of 9]
#
#   SECTIONS    which of "programs device daemon compute modes survive audit residual density nccl measurements" to run (default all)
#   OUT         where results.jsonl and all.log go (default build/gpu)
#   BUILD       the build tree (default build/release)
#   RIVAL_LIB   a HAMi-core libvgpu.so to measure beside; RIVAL_NAME names it (default hami)
#   JOBS        functional checks at a time (default 5); measurements always run alone
#   LIMIT_S     when no new part is begun any more (default 520; QUICK 235)
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.." || exit 1
BUILD=$(readlink -f "${BUILD:-build/release}")
OUT=$(mkdir -p "${OUT:-build/gpu}" && readlink -f "${OUT:-build/gpu}")
QUICK=${QUICK:-}
JOBS=${JOBS:-5}
LIMIT_S=${LIMIT_S:-$([ -n "$QUICK" ] && echo 235 || echo 520)}
export BULKHEAD=$BUILD/bin/bulkhead BH_QUOTA=$((10 << 30)) CHECK_TIMEOUT_S=75 PYTHONUNBUFFERED=1
export TF_CPP_MIN_LOG_LEVEL=3 XLA_FLAGS=${XLA_FLAGS:-}
BENCH=$BUILD/bin/bulkhead-bench
WORK=$(mktemp -d "${TMPDIR:-/tmp}/bulkhead-gpu-XXXXXX")
RESULTS=$OUT/results.jsonl
LOG=$OUT/all.log
: >"$RESULTS"
: >"$LOG"
trap 'rm -rf "$WORK"' EXIT
cd tests/gpu || exit 1

emit() { printf '%s\n' "$1" >>"$RESULTS"; }
# A line for a check that left none of its own: json_line NAME OK KEY TEXT
json_line() { python3 -c 'import json,sys; print(json.dumps({"check": sys.argv[1], "ok": {"true": True, "false": False}.get(sys.argv[2]), sys.argv[3]: sys.argv[4][-600:]}))' "$@"; }
wants() { [[ " ${SECTIONS:-programs device daemon compute modes survive audit residual density nccl measurements} " == *" $1 "* ]]; }
late() { [ "$SECONDS" -ge "$LIMIT_S" ]; }

# check NAME COMMAND...: in the background, at most JOBS at a time, each in a directory of its own: the sum of limits of
# one check is no other's concern.
number=0
check() {
  local name=$1 slot
  shift
  if late; then
    emit "$(json_line "$name" none skipped "no time left")"
    return
  fi
  while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
  number=$((number + 1))
  slot=$WORK/$(printf '%03d' "$number")
  mkdir -m 700 "$slot" "$slot/dir"
  (
    BULKHEAD_DIR=$slot/dir XDG_STATE_HOME=$WORK/state timeout -k 5 "${CHECK_LIMIT_S:-90}" "$@" >"$slot/out" 2>"$slot/err"
    rc=$?
    line=$(grep '^{"check"' "$slot/out" | tail -n 1)
    [ -n "$line" ] || line=$(json_line "$name" false error "exit $rc: $(tail -c 500 "$slot/err")")
    printf '%s\n' "$line" >"$slot/line"
    printf '%s\n' "$name: $([[ $line == *'"ok": true'* ]] && echo ok || echo FAILED)"
  ) &
}

# Gathers the lines and logs of all checks begun so far.
settle() {
  wait
  local slot
  for slot in "$WORK"/[0-9]*; do
    [ -f "$slot/line" ] || continue
    cat "$slot/line" >>"$RESULTS"
    { printf -- '---- %s\n' "$(cat "$slot/line")"; tail -c 4000 "$slot/err"; } >>"$LOG"
    rm -rf "$slot"
  done
}

# tenant NAME "fills or nothing" COMMAND...: a program in a tenant of 10 GiB, sampled from outside.
tenant() {
  local name=$1 fills=$2
  shift 2
  check "$name" python3 outside.py --check "$name" ${fills:+--fills} -- "$@"
}

# measure SUITE SECONDS ARGS...: a suite of bulkhead-bench, alone on the machine; its JSON becomes one line.
measure() {
  local suite=$1 seconds=$2 left
  shift 2
  left=$((LIMIT_S - SECONDS))
  if late || [ "$left" -lt 15 ]; then
    emit "$(json_line "bench $suite" none skipped "no time left")"
    return
  fi
  [ "$left" -lt "$seconds" ] && seconds=$left
  echo "bench $suite (at most $seconds s)"
  timeout -k 5 "$((seconds + 10))" "$BENCH" --suite "$suite" --seconds "$seconds" --json "$WORK/$suite.json" "$@" >"$WORK/$suite.out" 2>&1
  local rc=$?
  tee -a "$LOG" <"$WORK/$suite.out"
  python3 - "$suite" "$rc" "$WORK/$suite.json" >>"$RESULTS" <<'PY'
import json, os, sys
suite, rc, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
bench = json.load(open(path)) if os.path.exists(path) else None
missing = len(bench["not_measured"]) if bench else None
print(json.dumps({"check": f"bench {suite}", "ok": rc == 0 and bench is not None, "exit": rc,
                  "not_measured": missing, "bench": bench}))
PY
}

python3 - "$BUILD" >>"$RESULTS" <<'PY'
import datetime, json, platform, subprocess, sys
def ask(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
gpu = ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader").splitlines()
print(json.dumps({"machine": {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                              "gpus": gpu, "kernel": platform.release(), "cores": __import__("os").cpu_count(),
                              "command": "tests/gpu/run.sh", "bulkhead": ask(f"{sys.argv[1]}/bin/bulkhead", "--version")}}))
PY

# ---- programs ----
if wants programs; then
  if command -v nvcc >/dev/null; then
    CUDA_STUBS=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")/lib64/stubs
    nvcc -O2 -arch=native -cudart static static_cudart.cu -o "$WORK/static_cudart" 2>>"$LOG" &
    nvcc -O2 -x cu driver_api.cc -o "$WORK/driver_api" -L"$CUDA_STUBS" -lcuda 2>>"$LOG" &
    wait
  fi

  tenant "PyTorch fills its quota" fills python3 in_torch.py fill
  tenant "static cudart fills its quota" fills "$WORK/static_cudart" fill
  tenant "driver API (linked) fills its quota" fills "$WORK/driver_api" fill
  tenant "CuPy fills its quota" fills python3 in_cupy.py
  check "JAX fills its quota" python3 outside.py --check "JAX fills its quota" --fills \
    --env XLA_PYTHON_CLIENT_PREALLOCATE=false --env XLA_PYTHON_CLIENT_ALLOCATOR=platform -- python3 in_jax.py fill
  tenant "Triton kernel" "" python3 in_triton.py
  tenant "PyTorch trains" "" python3 in_torch.py train
  tenant "JAX with its default pool" "" python3 in_jax.py default
  check "nvidia-smi in a tenant" python3 check_smi.py
  check "PyTorch expandable segments" python3 outside.py --check "PyTorch expandable segments" --fills \
    --env PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True -- python3 in_torch.py expandable
  check "PyTorch cudaMallocAsync" python3 outside.py --check "PyTorch cudaMallocAsync" --fills \
    --env PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync -- python3 in_torch.py async
  tenant "PyTorch CUDA graph" "" python3 in_torch.py graph
  tenant "PyTorch multiprocessing spawn" "" python3 in_torch.py spawn
  tenant "PyTorch fork before init" "" python3 in_torch.py fork
  tenant "PyTorch shares CUDA tensors between processes" "" python3 in_torch_ipc.py
  tenant "cudaDeviceReset gives all back" fills "$WORK/static_cudart" reset
  tenant "several contexts" "" "$WORK/driver_api" contexts
  check "SIGKILL of a 6 GiB holder" python3 check_kill.py
  # multicast makes multicast objects on two GPUs, which can harm a machine that others share: only where it is asked for
  for form in share external ${MULTICAST:+multicast} green contexts; do
    tenant "driver API: $form" "" python3 in_driver.py "$form"
  done
  UUID=$(nvidia-smi --query-gpu=uuid --format=csv,noheader 2>/dev/null | head -n 1)
  for form in 0 "$UUID" "${UUID:0:12}" "0,99"; do
    check "CUDA_VISIBLE_DEVICES=$form" python3 outside.py --check "CUDA_VISIBLE_DEVICES=$form" \
      --env "CUDA_VISIBLE_DEVICES=$form" -- python3 in_torch.py visible
  done
  settle
fi

# ---- those that look at the whole device, one at a time ----
if wants device; then
  JOBS=1
  check "managed memory fills its quota" python3 check_managed.py
  if [ -x "$BUILD/tests/memory_e2e_test" ]; then
    for form in $("$BUILD/tests/memory_e2e_test" --gtest_list_tests | awk '/^[^ ]/ { suite = $1; next } { print suite $1 }'); do
      check "books against NVML: $form" python3 check_form.py "$BUILD/tests/memory_e2e_test" "$form" "books against NVML: $form"
    done
  fi
  if [ -x "$BUILD/tests/share_e2e_test" ]; then
    check "memory shared between processes" python3 check_form.py "$BUILD/tests/share_e2e_test" "Share.*" "memory shared between processes"
  fi
  check "death of a 6 GiB holder to its reuse" python3 check_storm.py --part reuse
  check "random SIGKILLs of allocating processes" python3 check_storm.py --seconds "${STORM_S:-60}"
  settle
fi

# ---- the node daemon, one part at a time: about 70 s ----
if wants daemon; then
  JOBS=1
  for part in join limits agreement sentinel reuse cost "storm --seconds ${DAEMON_STORM_S:-22}"; do
    read -ra words <<<"$part"
    check "daemon: ${words[0]}" python3 check_daemon.py --part "${words[@]}"
  done
  settle
fi

# ---- shares of the GPU's time: about 100 s ----
if wants compute; then
  JOBS=1
  check "shares of PyTorch" python3 check_compute.py
  settle
  measure compute 80 --quick
fi

# ---- the modes of a share: about 170 s; the self-test's verdicts are what spatial and slice need ----
if wants modes; then
  JOBS=1
  for part in selftest spatial slice sliced temporal eight-spatial eight-sliced answers; do
    check "modes: $part" python3 check_modes.py --part "$part" --seconds 1.2
  done
  settle
fi

# ---- what must be survived: about 60 s, a line a part ----
if wants survive && ! late; then
  BULKHEAD_DIR=$WORK/survive timeout -k 5 120 python3 check_survive.py >"$WORK/survive.out" 2>>"$LOG"
  grep '^{"check"' "$WORK/survive.out" >>"$RESULTS"
fi

# ---- the log of transfers beside CUPTI: about 45 s ----
if wants audit; then
  JOBS=1
  for part in observe enforce refused; do
    check "audit: $part" python3 check_audit.py --part "$part"
  done
  settle
fi

# ---- what one tenant left and another reads: about 100 s, a line a part ----
if wants residual && ! late; then
  timeout -k 5 120 python3 check_residual.py --gib 60 --mps --seconds 90 >"$WORK/residual.out" 2>>"$LOG"
  grep '^{"check"' "$WORK/residual.out" >>"$RESULTS"
fi

# ---- density, and whole programs beside native: about 200 s ----
if wants density; then
  JOBS=1
  check "end to end without limits" python3 check_end_to_end.py
  check "density of an MLP" python3 check_density.py --load mlp --share 10 --most 10
  check "density of an MLP, native MPS" python3 check_density.py --load mlp --share 10 --most 10 --native
  check "density of decode" python3 check_density.py --load decode --share 20 --most 5
  [ -z "${RIVAL_LIB:-}" ] || check "density of an MLP, rival" python3 check_density.py --load mlp --share 10 --most 3 --rival "$RIVAL_LIB"
  settle
fi

# ---- collectives on two GPUs: about 80 s ----
if wants nccl; then
  JOBS=1
  CHECK_LIMIT_S=160 check "NCCL in tenants" python3 check_nccl.py
  settle
fi

# ---- measurements, one at a time ----
if wants measurements; then
  rival=()
  if [ -n "${RIVAL_LIB:-}" ]; then
    rival=(--preload "${RIVAL_NAME:-hami}=$RIVAL_LIB,CUDA_REDIRECT=%l,CUDA_DEVICE_MEMORY_LIMIT=%Mm,CUDA_DEVICE_MEMORY_SHARED_CACHE=%d/cache,LIBCUDA_LOG_LEVEL=0")
  fi
  export XDG_STATE_HOME=$WORK/state
  if [ -n "$QUICK" ]; then
    measure quota 60 --launch run
    measure memory 60 --quick
    measure crash 40 --quick
    measure start 40 --quick "${rival[@]}"
  else
    measure quota 110 --launch run "${rival[@]}"
    measure crash 60 --quick "${rival[@]}"
    measure memory 190 --quick --repeats 5 "${rival[@]}"
    measure start 110 "${rival[@]}"
  fi
fi

python3 report.py --summary "$RESULTS" | tee -a "$LOG"
! grep -q '"ok": false' "$RESULTS"

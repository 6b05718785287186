"""What share of the GPU's time unmodified PyTorch gets under --compute (row 7 of the targets), beside a daemon: alone at 10 to 90 %, and two
tenants against each other whose shares sum to 100.

    check_compute.py [--seconds 1.5]

One line of JSON. `rate` is the share by operations each second to those of the same process with 100 %, `time` by that times how long an operation takes between
two events of the program's own: they differ where the clock does (a device at its power's limit runs faster under a cap). Contended, a part is of
the summed normalised rates, and `mhz` the clock meanwhile, which is 1980 or less. `ok` is that everything ran; how near the shares are is in the figures."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from loads import Load, end, together
from node import Node

KINDS = ("gemm", "gemm32", "decode")
SHARES = (10, 25, 50, 75, 90)
PAIRS = (("gemm", "gemm"), ("gemm32", "gemm32"), ("decode", "decode"), ("gemm32", "decode"), ("gemm", "decode"))


class Clock(threading.Thread):
    """The multiprocessors' clock, each 50 ms: (when, MHz)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen = []

    def run(self):
        try:
            import pynvml
            pynvml.nvmlInit()
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
            while True:
                self.seen.append((time.monotonic(), pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM)))
                time.sleep(0.05)
        except Exception as error:  # a machine without it has figures all the same
            print(f"no clock: {error}", file=sys.stderr)

    def since(self, begin):
        found = [mhz for at, mhz in list(self.seen) if at >= begin + 0.3]
        return round(statistics.mean(found)) if found else None


def set_share(node, tenant, share):
    done = node.call("set", tenant, "--compute", f"{share}%")
    if done.returncode != 0:
        raise RuntimeError(f"set {tenant} {share}%: {done.stderr.strip()}")


def alone(node, load, clock, seconds):
    out, full = {}, {}
    for kind in KINDS:
        set_share(node, "a", 100)
        whole, = together([load], kind, seconds)
        full[kind] = whole["per_s"]
        rows = {}
        for share in SHARES:
            set_share(node, "a", share)
            begin = time.monotonic()
            got, = together([load], kind, seconds)
            rate = got["per_s"] / whole["per_s"]
            rows[share] = {"rate": round(100 * rate - share, 2), "time": round(100 * rate * got["own_us"] / whole["own_us"] - share, 2),
                           "own_us": round(got["own_us"], 1), "mhz": clock.since(begin)}
        out[kind] = {"per_s": round(whole["per_s"], 1), "own_us": round(whole["own_us"], 1), "points": rows}
    return out, full


def against(node, a, b, full, clock, seconds):
    out = []
    for kinds in PAIRS:
        for share in (10, 25, 50) if kinds[0] == kinds[1] else (25, 50, 75):
            set_share(node, "b", 1)
            set_share(node, "a", share)
            set_share(node, "b", 100 - share)
            begin = time.monotonic()
            for load, kind in ((a, kinds[0]), (b, kinds[1])):
                load.ask(kind, seconds)
            parts = [load.answer()["per_s"] / full[kind] for load, kind in ((a, kinds[0]), (b, kinds[1]))]
            out.append({"of": " beside ".join(kinds), "share": share, "points": round(100 * parts[0] / sum(parts) - share, 2),
                        "all": round(sum(parts), 3), "mhz": clock.since(begin)})
    return out


def sweep(node, options, line, clock):
    words = [",".join(KINDS)]
    native = Load(node, words, program="in_compute.py")
    a = Load(node, words, ["--tenant", "a", "--memory", "20GiB", "--compute", "50%"], program="in_compute.py")
    for load in (native, a):
        load.ready()
    line["native_per_s"] = {kind: round(together([native], kind, options.seconds)[0]["per_s"], 1) for kind in KINDS}
    line["alone"], full = alone(node, a, clock, options.seconds)
    b = Load(node, words, ["--tenant", "b", "--memory", "20GiB", "--compute", "5%"], program="in_compute.py")
    b.ready()
    line["against"] = against(node, a, b, full, clock, options.seconds)
    for name in ("rate", "time"):
        errors = [abs(row[name]) for kind in line["alone"].values() for row in kind["points"].values()]
        line[f"alone_{name}"] = {"mean": round(statistics.mean(errors), 2), "worst": round(max(errors), 2)}
    errors = [abs(row["points"]) for row in line["against"]]
    line["against_rate"] = {"mean": round(statistics.mean(errors), 2), "worst": round(max(errors), 2)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    scratch, begin, clock = tempfile.mkdtemp(prefix="bulkhead-shares-"), time.monotonic(), Clock()
    node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": scratch + "/dir"}, sight=False)
    line = {"check": "shares of PyTorch", "ok": True}
    clock.start()
    try:
        node.start()
        sweep(node, options, line, clock)
    except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
        line.update(ok=False, error=f"{type(error).__name__}: {error}"[-400:])
    end(node)
    if node.process is not None and node.stop() != 0:
        line |= {"ok": False, "daemon_end": "it did not end by itself"}
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({**line, "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if line["ok"] else 1


sys.exit(main())

#!/usr/bin/env python3
"""Density (row 13 of the targets): how many tenants of one share fit before one of them fails. Each has a quota, a share and auditing on, copies its input
in and its result out, and passes if it keeps 95 % of the rate that it has alone at that share, and 1.1 times its p99, over >= 10,000 requests.

    check_density.py [--load mlp|decode] [--share 10] [--mode spatial|temporal] [--most 10] [--requests 10000] [--native | --rival LIB]

spatial needs MPS's control program and a verdict that shares of multiprocessors hold: without one `doctor --self-test` is run first.
--native: the same load under the same MPS with the same percentage, without the library.
--rival: the same load under another interposer, which is named here by its library and has HAMi-core's variables.
One line of JSON: the largest number that passed, and what each round gave. `ok`: it ran, in the mode that was asked."""
import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from loads import Load, end, together
from node import Node, until

CONTROL = next((p for p in (shutil.which("nvidia-cuda-mps-control"), "/usr/local/nvidia/bin/nvidia-cuda-mps-control") if p and os.path.exists(p)),
               "nvidia-cuda-mps-control")
GROUP = "density"
RATE, P99 = 0.95, 1.1
PASSES = 5


def configure(node, scratch, options):
    tenants = "".join(f"[[tenant]]\nname = 't{i}'\nmemory = '8GiB'\ncompute = '{options.share}%'\nmode = '{options.mode}'\naudit = 'observe'\n"
                      + (f"mps_group = '{GROUP}'\n" if options.mode == "spatial" else "") for i in range(options.most))
    mps = f"[mps]\nenabled = true\ngroups = ['{GROUP}']\ncontrol = '{CONTROL}'\n" if options.mode == "spatial" else ""
    node.config.write_text(f"[audit]\ndir = '{scratch}/log'\n{mps}{tenants}")


def enforcers(node):
    return {t["enforcer"] for t in node.status()["tenants"]}


def in_force(node, options, line):
    """True once every tenant is held in the mode that was asked."""
    if options.mode != "spatial":
        return enforcers(node) == {options.mode}
    if enforcers(node) != {"spatial"}:
        tested = node.call("doctor", "--self-test", "--mps-control", CONTROL)
        line["self_test"] = [text.strip() for text in tested.stdout.splitlines() if "spatial" in text][-1:]
        try:
            until(lambda: enforcers(node) == {"spatial"}, "spatial in force", 5)
        except RuntimeError:
            line["condition"] = node.status().get("condition", "")
            return False
    until(lambda: any(g["state"] == "serving" for g in node.status()["mps_groups"]), "MPS serves", 20)
    return True


def rivals(node, scratch, options):
    loads = []
    for i in range(options.most):
        os.makedirs(f"{scratch}/rival-{i}")
        loads.append(Load(node, [options.load, "--small"], None, LD_PRELOAD=options.rival, CUDA_REDIRECT=options.rival,
                          CUDA_DEVICE_MEMORY_LIMIT="8192m", CUDA_DEVICE_SM_LIMIT=str(options.share), LIBCUDA_LOG_LEVEL="0",
                          CUDA_DEVICE_MEMORY_SHARED_CACHE=f"{scratch}/rival-{i}/cache"))
    return loads


def natives(node, options):
    """Without the library, under the same MPS with the same share of multiprocessors."""
    pipe = node.dir / "mps" / str(os.geteuid()) / GROUP / "pipe"
    return [Load(node, [options.load, "--small"], None, CUDA_MPS_PIPE_DIRECTORY=str(pipe), CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=options.share)
            for _ in range(options.most)]


def stay_apart(loads):
    """A core for each one's main thread, so that its rate beside others is compared with that of the same core."""
    cores = sorted(os.sched_getaffinity(0))
    for i, load in enumerate(loads):
        if len(cores) > len(loads) + 2:
            os.sched_setaffinity(load.pid, {cores[2 + i]})


def density(loads, options, line):
    """Passes of short turns, each one's rate alone and beside ever more others; what counts is the median of the passes, for the machine's cores
    change their speed from second to second."""
    warm, = together(loads[:1], options.load, 0.5)
    seconds = 1.15 * options.requests / warm["per_s"] / PASSES
    passes = []
    for _ in range(PASSES):
        solo = [together([load], options.load, seconds)[0] for load in loads]
        passes.append((solo, {n: together(loads[:n], options.load, seconds) for n in range(2, len(loads) + 1)}))
    line |= {"passes": PASSES, "passed": 1, "rounds": [], "solo": {k: statistics.median(solo[0][k] for solo, _ in passes) for k in passes[0][0][0]}}
    fits = True
    for n in range(2, len(loads) + 1):
        rates, late = ([round(statistics.median(beside[n][i][key] / solo[i][key] for solo, beside in passes), 4) for i in range(n)]
                       for key in ("per_s", "p99_ms"))
        line["rounds"].append({"tenants": n, "least_rate": min(rates), "worst_p99": max(late), "rates": rates, "p99s": late,
                               "total_per_s": round(statistics.median(sum(x["per_s"] for x in beside[n]) for _, beside in passes), 1),
                               "fewest_requests": min(sum(beside[n][i]["n"] for _, beside in passes) for i in range(n))})
        fits = fits and min(rates) >= RATE and max(late) <= P99
        line["passed"] = n if fits else line["passed"]


def time_is_over(*_):
    raise RuntimeError("the time is over")


def quit_mps(node):
    for home in node.dir.glob("mps/*/*"):
        try:
            subprocess.run([CONTROL], input="quit -t 2\n", env={**node.env, "CUDA_MPS_PIPE_DIRECTORY": str(home / "pipe")}, text=True,
                           capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", choices=("mlp", "decode"), default="mlp")
    parser.add_argument("--share", type=float, default=10)
    parser.add_argument("--mode", choices=("spatial", "temporal"), default="spatial")
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--rival")
    options = parser.parse_args()
    options.share = f"{options.share:g}"
    what = pathlib.Path(options.rival).name if options.rival else "native MPS" if options.native else options.mode
    line = {"check": f"density: {options.load} at {options.share} %, {what}", "ok": False, "row": 13}
    scratch, begin = tempfile.mkdtemp(prefix="bhd"), time.monotonic()  # short: MPS has sockets in there
    node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": scratch + "/d"}, sight=False)
    signal.signal(signal.SIGTERM, time_is_over)
    try:
        if options.rival:
            loads = rivals(node, scratch, options)
        else:
            configure(node, scratch, options)
            node.start()
            if not in_force(node, options, line):
                raise RuntimeError(f"{options.mode} is not in force")
            loads = natives(node, options) if options.native else \
                [Load(node, [options.load, "--small"], ["--tenant", f"t{i}"]) for i in range(options.most)]
        line["multiprocessors"] = sorted({load.ready() for load in loads})
        stay_apart(loads)
        density(loads, options, line)
        line["ok"] = True
    except (RuntimeError, OSError, ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
        line["error"] = f"{type(error).__name__}: {error}"[-400:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end(node)
    if node.process is not None and node.stop() != 0:
        line |= {"ok": False, "daemon_end": "it did not end by itself"}
    quit_mps(node)
    if not options.rival and not options.native:
        log = node.call("audit", "verify", f"{scratch}/log", "--key", f"{scratch}/log/host.pub").stdout.splitlines()
        line["audit"] = log[0][:160] if log else "no log"
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({**line, "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if line["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

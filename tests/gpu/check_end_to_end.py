#!/usr/bin/env python3
"""Whole programs without limits in a tenant beside the same without the library (row 14 of the targets): PyTorch's GEMM, a prompt and tokens of a
model of Llama's shape, a training step. Three processes of each live throughout and take short turns on one core, another in each repeat: the
machine's cores differ in speed and change it from second to second. A daemon governs.

    check_end_to_end.py [--repeats 8] [--seconds 0.1] [--no-daemon]

One line of JSON: for each the ratio of rates (median over pairs of processes, each in turns A B B A or B A A B, and its 95 % interval); `ok`: all medians >= 0.99."""
import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time

from figures import interval
from loads import Load, end, together
from node import Node

KINDS = ("gemm", "prefill", "decode", "train")
GOAL = 0.99
PROCESSES = 3


def measure(node, options):
    """Several processes of each: one and the same program differs by some percent from start to start."""
    natives = [Load(node, [",".join(KINDS)]) for _ in range(PROCESSES)]
    ours = [Load(node, [",".join(KINDS)], ["--memory", "20GiB"]) for _ in range(PROCESSES)]
    for load in (*natives, *ours):
        load.ready()
    taken = {kind: [] for kind in KINDS}  # of each repeat and pair of processes: native's two turns, ours
    cores = sorted(os.sched_getaffinity(0))
    for repeat in range(options.repeats):
        for load in (*natives, *ours):
            load.stay_on(cores[(1 + 3 * repeat) % len(cores)])
        for n in range(PROCESSES):
            # Each pair of processes meets, and both orders: whoever begins finds a device that others have let cool, and a higher clock.
            a, b = natives[n], ours[(n + repeat) % PROCESSES]
            order = (a, b, b, a) if (n + repeat) % 2 == 0 else (b, a, a, b)
            for kind in KINDS:
                turns = [(load, together([load], kind, options.seconds)[0]) for load in order]
                taken[kind].append([[said for load, said in turns if load is who] for who in (a, b)])
    figures, ok = {}, True
    for kind, repeats in taken.items():
        rate = [sum(x["per_s"] for x in b) / sum(x["per_s"] for x in a) for a, b in repeats]
        middle = statistics.median(rate)
        ok = ok and middle >= GOAL
        figures[kind] = {"native_per_s": round(statistics.median(x["per_s"] for a, _ in repeats for x in a), 1), "to_native": round(middle, 4),
                         "spread": interval(rate),
                         "p50_to_native": round(statistics.median(sum(x["p50_ms"] for x in b) / sum(x["p50_ms"] for x in a) for a, b in repeats), 4)}
    return ok, figures


def time_is_over(*_):
    raise RuntimeError("the time is over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--no-daemon", action="store_true")
    options = parser.parse_args()
    scratch, begin = tempfile.mkdtemp(prefix="bulkhead-e2e-"), time.monotonic()
    node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": scratch + "/dir"}, sight=False)
    line = {"check": "end to end without limits", "ok": False, "daemon": not options.no_daemon}
    signal.signal(signal.SIGTERM, time_is_over)
    try:
        if not options.no_daemon:
            node.start()
        ok, figures = measure(node, options)
        line |= {"ok": ok, **figures}
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        line["error"] = f"{type(error).__name__}: {error}"[-400:]
    end(node)
    if node.process is not None and node.stop() != 0:
        line |= {"ok": False, "daemon_end": "it did not end by itself"}
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({**line, "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if line["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

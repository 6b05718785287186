#!/usr/bin/env python3
"""Whole programs without limits in a tenant beside the same without the library (row 14 of the targets): PyTorch's GEMM, a prompt and tokens of a
model of Llama's shape, a training step. Both processes live throughout and take short turns on one core, another in each repeat: the machine's cores differ
in speed and change it from second to second. A daemon governs.

    check_end_to_end.py [--repeats 12] [--seconds 0.12] [--no-daemon]

One line of JSON: for each the ratio of rates (median of the repeats, each of four turns of both, A B B A B A A B, and its 95 % interval); `ok`: all medians >= 0.99."""
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


def measure(node, options):
    native = Load(node, [",".join(KINDS)])
    ours = Load(node, [",".join(KINDS)], ["--memory", "60GiB"])
    native.ready(), ours.ready()
    taken = {kind: [] for kind in KINDS}  # of each repeat: native's four turns, ours
    cores = sorted(os.sched_getaffinity(0))
    for repeat in range(options.repeats):
        for load in (native, ours):
            load.stay_on(cores[(1 + 3 * repeat) % len(cores)])
        # Both orders in each repeat: whoever begins finds a device that others have let cool, and a higher clock.
        orders = ((native, ours, ours, native), (ours, native, native, ours))[:: 1 if repeat % 2 else -1]
        for kind in KINDS:
            turns = [(load, together([load], kind, options.seconds)[0]) for order in orders for load in order]
            taken[kind].append([[said for load, said in turns if load is who] for who in (native, ours)])
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
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.12)
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

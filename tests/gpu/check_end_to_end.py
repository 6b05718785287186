#!/usr/bin/env python3
"""Whole programs without limits in a tenant beside the same without the library (row 14 of the targets): PyTorch's GEMM, a prompt and tokens of a
model of Llama's shape, a training step. Both processes live throughout and take turns; a daemon governs.

    check_end_to_end.py [--repeats 7] [--seconds 0.35] [--no-daemon]

One line of JSON: for each the ratio of rates (median of the pairs, smallest and largest); `ok`: all medians >= 0.99."""
import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time

from loads import Load, end, together
from node import Node

KINDS = ("gemm", "prefill", "decode", "train")
GOAL = 0.99


def measure(node, options):
    native = Load(node, [",".join(KINDS)])
    ours = Load(node, [",".join(KINDS)], ["--memory", "60GiB"])
    native.ready(), ours.ready()
    taken = {kind: ([], []) for kind in KINDS}
    for repeat in range(options.repeats):
        for kind in KINDS:
            order = ((native, 0), (ours, 1)) if repeat % 2 == 0 else ((ours, 1), (native, 0))
            for load, at in order:
                taken[kind][at].append(together([load], kind, options.seconds)[0])
    figures, ok = {}, True
    for kind, (a, b) in taken.items():
        ratios = sorted(y["per_s"] / x["per_s"] for x, y in zip(a, b))
        middle = statistics.median(ratios)
        ok = ok and middle >= GOAL
        figures[kind] = {"native_per_s": round(statistics.median(x["per_s"] for x in a), 1), "to_native": round(middle, 4),
                         "spread": [round(ratios[0], 4), round(ratios[-1], 4)],
                         "p50_to_native": round(statistics.median(y["p50_ms"] / x["p50_ms"] for x, y in zip(a, b)), 4)}
    return ok, figures


def time_is_over(*_):
    raise RuntimeError("the time is over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.35)
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

"""Every copy of unmodified PyTorch is in the audit log: entries of the log against CUPTI's driver-API callbacks, operation by operation.
It needs a daemon with auditing on whose log holds nothing else and a tenant whose mode is observe, or enforce with a grant: check_audit.py
starts both.

    check_copies.py --tenant NAME --log DIR [--grant FILE] [--steps 50]
    check_copies.py --self-test      the comparison alone, without a GPU

One line of JSON. What CUPTI saw and no driver call of the program made (activity of the driver's own) is listed apart, not counted as missing."""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time

REPLAY = 4  # docs/formats/entry.md
HERE = pathlib.Path(__file__).resolve().parent


def logged(lines):
    """(entries by operation, replays, failures) of `bulkhead audit export` lines. A batch or a graph makes several of one call."""
    by_op, replays, failures = collections.Counter(), 0, 0
    for line in lines:
        entry = json.loads(line)
        if entry.get("kind") == "failure":
            failures += 1
        elif entry.get("kind") in ("transfer", "map"):
            if entry["flags"] & REPLAY:
                replays += 1
            else:
                by_op[entry["operation"]] += 1
    return by_op, replays, failures


def exported(bulkhead, log, watchdog_s=30):
    """Lines of the log once each session in it has ended: then all of its entries are there."""
    end = time.monotonic() + watchdog_s
    while True:
        done = subprocess.run([bulkhead, "audit", "export", *([log] if log else [])], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
        lines = done.stdout.splitlines()
        kinds = collections.Counter(json.loads(line)["record"]["record"] for line in lines if '"record":{' in line)
        if kinds["session"] > 0 and kinds["session"] == kinds["session_end"]:
            return lines
        if time.monotonic() > end:
            raise RuntimeError(f"{kinds['session']} sessions, {kinds['session_end']} ended, after {watchdog_s} s")
        time.sleep(0.2)


def decisions(lines):
    entries = [json.loads(line) for line in lines]
    return dict(collections.Counter(e["decision"] for e in entries if e.get("kind") in ("transfer", "map")))


def compare(said, by_op, replays):
    """What differs: missing entries fail the check; entries that CUPTI did not see are listed."""
    calls = {name: n for name, n in said["calls"].items() if name != "cuGraphLaunch"}
    missing = {name: n - by_op[name] for name, n in calls.items() if by_op[name] < n}
    extra = {name: n - calls.get(name, 0) for name, n in by_op.items() if n > calls.get(name, 0)}
    want = said["graph"]["launches"] * said["graph"]["moves_each"]
    if replays < want:
        missing["cuGraphLaunch"] = want - replays
    return missing, extra


def self_test():
    said = {"calls": {"cuMemcpyHtoDAsync": 3, "cuMemsetD32Async": 2, "cuGraphLaunch": 10}, "graph": {"launches": 10, "moves_each": 2}}
    entry = {"kind": "transfer", "flags": 1}
    good = [dict(entry, operation="cuMemcpyHtoDAsync")] * 3 + [dict(entry, operation="cuMemsetD32Async")] * 2
    good += [dict(entry, operation="cuGraphLaunch", flags=1 | REPLAY)] * 20
    for lines, want in ((good, set()), (good[1:], {"cuMemcpyHtoDAsync"}), (good[:-1], {"cuGraphLaunch"}),
                        (good[:3], {"cuMemsetD32Async", "cuGraphLaunch"})):
        by_op, replays, _ = logged(json.dumps(one) for one in lines)
        missing, extra = compare(said, by_op, replays)
        assert set(missing) == want and not extra, (missing, extra)
    print("ok: a missing entry is found")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tenant")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--log", help="directory of the log; the daemon's usual one unless named")
    parser.add_argument("--grant")
    parser.add_argument("--program", default=str(HERE / "in_copies.py"))
    parser.add_argument("--name", default="every copy of PyTorch is in the log")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    bulkhead = os.environ["BULKHEAD"]
    line = {"check": options.name, "ok": False}
    try:
        run = [bulkhead, "run", "-q", "--tenant", options.tenant, *(["--grant", options.grant] if options.grant else []), "--",
               sys.executable, options.program, "--steps", str(options.steps)]
        said = json.loads(subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout.splitlines()[-1])
        lines = exported(bulkhead, options.log)
        by_op, replays, failures = logged(lines)
        missing, extra = compare(said, by_op, replays)
        line |= {"ok": not missing, "missing": missing, "not_seen_by_cupti": extra, "failures": failures,
                 "calls": sum(said["calls"].values()), "entries": sum(by_op.values()) + replays, "decisions": decisions(lines), "by_call": dict(sorted(said["calls"].items()))}
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, subprocess.SubprocessError) as error:
        line["error"] = str(error)
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())

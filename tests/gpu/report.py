#!/usr/bin/env python3
"""Turns the JSON lines of tests/gpu/run.sh into a page of tables; every figure comes from the JSON.

    report.py RESULTS.jsonl [--out docs/results/DATE-h200.md]     the page (standard output without --out)
    report.py --summary RESULTS.jsonl                             one line a check
"""
import argparse
import json
import pathlib
import re
import sys

import report_bench
import report_checks

MIB = 1 << 20


def median_of(bench, row, case, figure, variant):
    for c in bench["cases"]:
        if (c["row"], c["case"], c["figure"], c["variant"]) == (row, case, figure, variant):
            return c["median"]
    return None


def added(bench, row, case, figure, variant="bulkhead"):
    """Median of the differences of one repeat's pair, the variant less native; None if either is missing."""
    pair = {c["variant"]: c["samples"] for c in bench["cases"]
            if (c["row"], c["case"], c["figure"]) == (row, case, figure)}
    if not pair.get("native") or not pair.get(variant):
        return None
    differences = sorted(b - a for a, b in zip(pair["native"], pair[variant]))
    middle = len(differences) // 2
    return differences[middle] if len(differences) % 2 else (differences[middle - 1] + differences[middle]) / 2


def number(value, unit=""):
    if value is None:
        return "not measured"
    text = f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def spread(c):
    if c["min"] == c["max"]:
        return number(c["median"])
    return f"{number(c['median'])} ({number(c['min'])}..{number(c['max'])})"


def targets(benches):
    """(row, what, target, figure, met) of the targets that a GPU run answers; met None: not measured."""
    memory, start, quota, crash = (benches.get(n) for n in ("memory", "start", "quota", "crash"))
    rows = []

    def judge(row, what, target, value, unit, good):
        rows.append((row, what, target, number(value, unit), None if value is None else good(value)))

    if memory:
        for case, figure, limit in (("plain 2 MiB", "cuMemAlloc p50", 30), ("plain 2 MiB", "cuMemFree p50", 30),
                                    ("plain 512 B", "cuMemAlloc p50", 30), ("plain 512 B", "cuMemFree p50", 30),
                                    ("async 1 MiB", "pair, mean", 60)):
            judge(1, f"added: {figure}, {case}", f"<= {limit} ns", added(memory, 1, case, figure), "ns",
                  lambda v, limit=limit: v <= limit)
        halves = [added(memory, 1, "async 1 MiB", f"{call} p50") for call in ("cuMemAllocAsync", "cuMemFreeAsync")]
        both = sum(halves) if None not in halves else None
        judge(1, "added: cuMemAllocAsync p50 + cuMemFreeAsync p50", "<= 60 ns", both, "ns", lambda v: v <= 60)
        for rival in (v["name"] for v in memory["variants"] if v["name"] not in ("native", "bulkhead")):
            halves = [added(memory, 1, "async 1 MiB", f"{call} p50", rival) for call in ("cuMemAllocAsync", "cuMemFreeAsync")]
            theirs = sum(halves) if None not in halves else None
            share = both / theirs if both is not None and theirs else None
            judge(1, f"the same as a share of what {rival} adds", "<= 0.2", share, "", lambda v: v <= 0.2)
        for case in ("cuMemAllocAsync 1 MiB, 8 processes, one tenant", "cuMemAllocAsync 1 MiB, 8 tenants"):
            native, ours = (median_of(memory, 2, case, "p99", v) for v in ("native", "bulkhead"))
            ratio = ours / native if native and ours else None
            judge(2, f"p99 of {case}, times native", "<= 1.2", ratio, "", lambda v: v <= 1.2)
        for case, limit in (("1 process living", 100), ("16 processes living", 100), ("256 processes living", 1000)):
            value = median_of(memory, 4, case, "no room left p50", "bulkhead")
            if value is not None:
                judge(4, f"refused, {case}, p50", f"<= {limit} ns", value, "ns", lambda v, limit=limit: v <= limit)
    if start:
        for case in ("1 at a time", "8 at once"):
            low = median_of(start, 3, case, "its 95 % interval, low", "bulkhead")
            middle = median_of(start, 3, case, "difference of medians", "bulkhead")
            judge(3, f"exec to first kernel, added, {case} (lower end of the interval judged: {number(low, 'ms')})",
                  "interval reaches <= 4 ms", middle, "ms", lambda v, low=low: low is not None and low <= 4)
    if quota:
        for c in quota["cases"]:
            if c["row"] == 5 and c["variant"] == "bulkhead" and c["figure"] == "seen / quota":
                over = median_of(quota, 5, c["case"], "bytes over", "bulkhead")
                judge(5, f"{c['case']}: largest seen / quota ({number(over)} B over)", ">= 99.5 %, 0 over", c["median"], "%",
                      lambda v, over=over: v >= 99.5 and over == 0)
        for f in quota["not_measured"]:
            if f["variant"] != "native":
                rows.append((5, f"{f['case']} ({f['variant']}): {f['why']}", ">= 99.5 %, 0 over", "not measured", None))
    if crash:
        for c in crash["cases"]:
            if c["row"] == 6 and c["variant"] == "bulkhead" and c["figure"] in (
                    "surely false refusals", "overshoot by the logs", "overshoot seen by NVML", "leaked"):
                judge(6, f"{c['case']}: {c['figure']}", "0", c["max"], c["unit"], lambda v: v == 0)
            if c["row"] == 6 and c["variant"] == "bulkhead" and c["figure"] == "death to reuse":
                judge(6, f"{c['case']}: {c['figure']}", "<= 10 ms (with the daemon)", c["median"], "ms", lambda v: v <= 10)
    return rows


def read(path):
    machine, checks, benches = {}, [], {}
    for line in pathlib.Path(path).read_text().splitlines():
        entry = json.loads(line)
        if "machine" in entry:
            machine = entry["machine"]
            continue
        checks.append({"ok": None, **entry})
        if entry.get("bench"):
            benches[entry["check"].removeprefix("bench ")] = entry["bench"]
    return machine, checks, benches


def word(value):
    return {True: "ok", False: "FAILED", None: "not run"}[value]


def summary(checks, benches):
    for c in checks:
        note = c.get("skipped") or c.get("error") or ""
        percent = f"{c['percent']} % of the quota seen, {c['over_bytes']} B over" if "percent" in c else ""
        print(f"{word(c['ok']):8} {c['check']:44} {percent}{note[-120:]}")
    for row, what, target, figure, met in [*targets(benches), *report_bench.rows(benches), *report_checks.rows(checks)]:
        print(f"{ {True: 'met', False: 'MISSED', None: 'not run'}[met]:8} row {row}: {what}: {figure} (target {target})")
    failed = sum(c["ok"] is False for c in checks)
    print(f"{sum(c['ok'] is True for c in checks)} passed, {failed} failed, {sum(c['ok'] is None for c in checks)} not run")


def check_table(checks):
    lines = ["| check | result | largest seen | of the quota | over | seconds |", "|---|---|---|---|---|---|"]
    for c in checks:
        if c["check"].startswith("bench "):
            continue
        if "percent" in c:
            figures = f"{c['most_seen_bytes'] / MIB:.1f} MiB | {c['percent']} % | {c['over_bytes']} B | {c['seconds']}"
        else:
            rest = {k: v for k, v in c.items() if k not in ("check", "ok")}
            figures = json.dumps(rest).replace("|", "/")[:300] + " | | | "
        lines.append(f"| {c['check']} | {word(c['ok'])} | {figures} |")
    return lines


def bench_table(name, bench):
    variants = [v["name"] for v in bench["variants"]]
    # where things lay on the machine is no part of the command
    command = re.sub(r"(?<![\w.])/[\w./-]*/", "", bench["command"])
    lines = [f"### {name}", "", f"`{command}`, {bench['device']}, {bench['driver']}. "
             "Medians of the repeats, smallest and largest beside.", ""]
    for v in bench["variants"]:
        if v["limit_inert"]:
            lines += [f"**{v['name']}: limit inert** ({v['limit_inert']}).", ""]
    lines += ["| row | case | figure | " + " | ".join(variants) + " |", "|---" * (3 + len(variants)) + "|"]
    done = set()
    for c in bench["cases"]:
        key = (c["row"], c["case"], c["figure"])
        if key in done:
            continue
        done.add(key)
        cells = {d["variant"]: d for d in bench["cases"] if (d["row"], d["case"], d["figure"]) == key}
        unit = f" [{c['unit']}]" if c["unit"] else ""
        row = c["row"] or ""
        lines.append(f"| {row} | {c['case']} | {c['figure']}{unit} | " +
                     " | ".join(spread(cells[v]) if v in cells else "-" for v in variants) + " |")
        note = next((d.get("note") for d in cells.values() if d.get("note")), None)
        if note:
            lines[-1] = lines[-1][:-2] + f" ({note}) |"
    for f in bench["not_measured"]:
        lines.append(f"\nNot measured: {f['case']}, {f['variant']}: {f['why']}")
    return lines + [""]


def page(machine, checks, benches):
    lines = [f"# Measured on {', '.join(machine.get('gpus', [])) or 'an unknown GPU'}", "",
             f"{machine.get('date')}, kernel {machine.get('kernel')}, {machine.get('cores')} cores, "
             f"{machine.get('bulkhead')}. Made by `{machine.get('command')}` and `tests/gpu/report.py`; "
             "what each case measures is in docs/benchmarks.md.", "", "## Against the targets", "",
             "| row | what | target | measured | |", "|---|---|---|---|---|"]
    for row, what, target, figure, met in [*targets(benches), *report_bench.rows(benches), *report_checks.rows(checks)]:
        lines.append(f"| {row} | {what} | {target} | {figure} | "
                     f"{ {True: 'met', False: '**missed**', None: 'not run'}[met]} |")
    lines += ["", "## Programs in a tenant of 10 GiB", ""] + check_table(checks) + ["", "## All figures", ""] + report_checks.tables(checks)
    for name, bench in benches.items():
        lines += bench_table(name, bench)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results")
    parser.add_argument("--out")
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    machine, checks, benches = read(args.results)
    if args.summary:
        summary(checks, benches)
    elif args.out:
        pathlib.Path(args.out).write_text(page(machine, checks, benches))
    else:
        sys.stdout.write(page(machine, checks, benches))


if __name__ == "__main__":
    main()

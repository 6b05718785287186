"""What bench suites other than memory, start, quota and crash say against the targets, for report.py: launches, transfers, shares."""
import statistics

LAUNCHES = (("cuLaunchKernel", 60), ("cuLaunchKernel, with 90%", 150), ("cuLaunchKernel, with 100%", 150), ("cuGraphLaunch", 100),
            ("cuGraphLaunch, with 90%", 200), ("cuGraphLaunch, with 100%", 200))
COPIES = ("cuMemcpyHtoDAsync 4 KiB, pinned", "cuMemcpyDtoHAsync 4 KiB, pinned", "cuMemsetD8 4 KiB")


def samples(bench, row, case, figure, variant):
    return next((c["samples"] for c in bench["cases"] if (c["row"], c["case"], c["figure"], c["variant"]) == (row, case, figure, variant)), None)


def spread(values):
    return f"{statistics.median(values):.3g} ({min(values):.3g}..{max(values):.3g})"


def rows(benches):
    """(row, what, target, figure as text, met), one for each figure that was measured."""
    out = []

    def most(row, what, target, values, limit, unit):
        if values:
            out.append((row, what, target, f"{spread(values)} {unit}", statistics.median(values) <= limit))

    for bench in benches.values():
        for case, limit in LAUNCHES:
            native, ours = (samples(bench, 1, case, "p50", v) for v in ("native", "bulkhead"))
            if native and ours:
                most(1, f"{case}, p50 added", f"<= {limit} ns", [y - x for x, y in zip(native, ours)], limit, "ns")
        for case in COPIES:
            most(1, f"{case}, enforce, p50 added", "<= 60 ns", samples(bench, 1, case, "p50, added", "enforce, with a grant"), 60, "ns")
        for figure, what in (("error", "kernels alone"), ("worst error", "kernels against each other")):
            errors = [c["median"] for c in bench["cases"] if c["row"] == 7 and c["figure"] == figure and c["variant"] == "bulkhead"]
            if errors:
                mean, worst = statistics.mean(errors), max(errors)
                out.append((7, f"share error, {what}, {len(errors)} cases, points: mean, worst", "<= 2, <= 4", f"{mean:.2f}, {worst:.2f}", mean <= 2 and worst <= 4))
        for c in bench["cases"]:
            if c["row"] == 11 and c["figure"] == "Jain" and c["variant"] == "bulkhead":
                out.append((11, c["case"].split(":")[0] + ", 3:1, Jain", ">= 0.99", f"{c['median']:.4f}", c["median"] >= 0.99))
    return out

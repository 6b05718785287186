"""What the checks of shares, modes, density, whole programs, collectives and the log say, for report.py: rows against the targets, and tables."""

GOALS = {"mlp": 8, "decode": 4}
MODES = {"spatial": ("p99 of the MLP at 25 % beside a GEMM load, times alone, spatial", 1.05), "slice": ("p99 of the MLP at 25 % beside a GEMM load, times alone, slices", 2.5)}


def named(checks, prefix):
    return [c for c in checks if c["check"].startswith(prefix)]


def ran(checks, prefix):
    """The first of that name that came to its figures."""
    return next((c for c in named(checks, prefix) if c["ok"] is not None and "error" not in c), None)


def rows(checks):
    """(row, what, target, figure as text, met) of the targets; met None: not measured."""
    out = []

    def judge(row, what, target, value, good, text=None):
        out.append((row, what, target, "not measured" if value is None else text or f"{value:g}", None if value is None else good(value)))

    shares = ran(checks, "shares of PyTorch")
    if shares and "against_rate" in shares:
        for key, what in (("alone_time", "alone, by GPU time"), ("alone_rate", "alone, by rate"), ("against_rate", "against each other, by rate")):
            one = shares[key]
            judge(7, f"share error of PyTorch {what}, points: mean, worst", "<= 2, <= 4", one["worst"], lambda v, one=one: v <= 4 and one["mean"] <= 2,
                  f"{one['mean']}, {one['worst']}")
    for mode, (what, most) in MODES.items():
        took = [c for c in named(checks, f"modes: {mode}") if c["check"] == f"modes: {mode}" and c["ok"] and "p99_to_alone" in c]
        # In a closed loop under a cap that holds it, the model's own p99 alone is a hold: no measure of its neighbour.
        for key, how in (("p99_to_alone", "closed loop"), ("paced_p99_to_alone", "200 requests a second")):
            if took and not (mode == "slice" and key == "p99_to_alone"):
                each = [c[key] for c in took]
                within = [" ({}..{})".format(*c[key.replace("to_alone", "interval")]) if c.get("turns", 0) > 4 else "" for c in took]
                judge(10, f"{what}, {how}, the worst of {len(each)}", f"<= {most}", max(each), lambda v, most=most: v <= most,
                      ", ".join(f"{v:g}{w}" for v, w in zip(each, within)))
    spatial, sliced = ran(checks, "modes: eight-spatial"), ran(checks, "modes: eight-sliced")
    if spatial and sliced:
        judge(10, "eight MLPs at 12.5 %, all requests, times time slicing", ">= 5", round(spatial["total_per_s"] / sliced["total_per_s"], 2),
              lambda v: v >= 5)
    for load, goal in GOALS.items():
        ours = [c for c in named(checks, f"density: {load}") if "passed" in c]
        rivals = [c for c in ours if ".so" in c["check"]]
        native = [c for c in ours if "native" in c["check"]]
        ours = [c for c in ours if c not in native]
        mine = max((c["passed"] for c in ours if c not in rivals), default=None)
        if mine is not None:
            judge(13, f"tenants that pass, {load}", f">= {goal}", mine, lambda v, goal=goal: v >= goal)
        if mine is not None and rivals:
            theirs = max(c["passed"] for c in rivals)
            judge(13, f"the same, times a rival's {theirs}", ">= 2", mine / theirs, lambda v: v >= 2)
    whole = ran(checks, "end to end")
    for kind in ("gemm", "prefill", "decode", "train"):
        if whole and kind in whole:
            judge(14, f"{kind} without limits, to native", ">= 0.99", whole[kind]["to_native"], lambda v: v >= 0.99)
    nccl = next((c for c in named(checks, "NCCL") if c["ok"] is not None), None)
    if nccl:
        for name, one in nccl.get("all_reduce", {}).items():
            worst = min(one[k]["to_native"] for k in one if k.startswith("at_"))
            judge(15, f"all-reduce of {name}, to native, the lowest of 100, 50 and 25 %", ">= 0.95", worst, lambda v: v >= 0.95)
        for way, one in nccl.get("caps_30_70", {}).items():
            done = one.get("collectives") if "seconds" in one else None
            judge(15, f"collectives under 30/70 caps, {way}", ">= 10^4, no hang", done if done else 0, lambda v: v >= 10_000,
                  f"{done} in {one['seconds']} s" if done else one.get("hung") or one.get("error", "?"))
    for one in named(checks, "audit: every copy"):
        if "missing" in one:
            judge("16", f"{one['check'].removeprefix('audit: ')}: copies that CUPTI saw and the log lacks", "0", sum(one["missing"].values()),
                  lambda v: v == 0, f"{sum(one['missing'].values())} of {one['calls']} calls, {one['entries']} entries")
    return out


def nccl_table(one):
    lines = ["### NCCL all-reduce on two GPUs", "", f"NCCL {one.get('nccl')}, unmodified PyTorch, medians of pairs; GB/s are bytes / time.", "",
             "| size | native us | GB/s | " + " | ".join(f"at {s} %: us, GB/s, to native" for s in (100, 50, 25)) + " |", "|---" * 6 + "|"]
    for name, row in one["all_reduce"].items():
        cells = [f"{row[f'at_{s}']['us']}, {row[f'at_{s}']['GB_s']}, {row[f'at_{s}']['to_native']} "
                 f"({row[f'at_{s}']['spread'][0]}..{row[f'at_{s}']['spread'][1]})" for s in (100, 50, 25)]
        lines.append(f"| {name} | {row['native_us']} | {row['native_GB_s']} | " + " | ".join(cells) + " |")
    for way, said in {"one tenant at 50 %": one.get("one_tenant_50"), **one.get("caps_30_70", {})}.items():
        if said:
            lines += ["", f"{way}: " + ", ".join(f"{k} {v}" for k, v in said.items())]
    return [*lines, ""]


def density_table(one):
    solo = one["solo"]
    lines = [f"### {one['check']}", "", f"Alone: {solo['per_s']}/s, p50 {solo['p50_ms']} ms, p99 {solo['p99_ms']} ms; {one['passed']} tenants pass"
             + (f"; multiprocessors {one['multiprocessors']}" if "multiprocessors" in one else "") + (f"; log: {one['audit']}" if "audit" in one else "") + ".",
             "", "| tenants | least rate, to alone | worst p99, to alone | all requests /s | fewest requests |", "|---|---|---|---|---|"]
    return [*lines, *(f"| {r['tenants']} | {r['least_rate']} | {r['worst_p99']} | {r['total_per_s']} | {r['fewest_requests']} |" for r in one["rounds"]), ""]


def whole_table(one):
    lines = ["### Whole programs without limits", "", "| program | native /s | to native | 95 % interval | p50 to native |", "|---|---|---|---|---|"]
    for kind in ("gemm", "prefill", "decode", "train"):
        if kind in one:
            k = one[kind]
            lines.append(f"| {kind} | {k['native_per_s']} | {k['to_native']} | {k['spread'][0]}..{k['spread'][1]} | {k['p50_to_native']} |")
    return [*lines, ""]


def modes_table(checks):
    """The model's p99 in ms, alone and beside the load, in each mode that ran."""
    took = [c for c in checks if c["check"].startswith("modes: ") and "paced_beside" in c and c["ok"]]
    if not took:
        return []
    lines = ["### The MLP beside a GEMM load, by mode", "", "Closed loop / 200 requests a second; p50 and p99 in ms. The model has 25 %, the load 75 %; *sliced* is without shares.", "",
             "| mode | alone | beside | load /s alone, beside | multiprocessors |", "|---|---|---|---|---|"]

    def of(one):
        return f"{one['p50_ms']}, {one['p99_ms']}"
    for c in took:
        lines.append(f"| {c['check'].removeprefix('modes: ')} | {of(c['alone'])} / {of(c['paced_alone'])} | {of(c['beside'])} / {of(c['paced_beside'])} | "
                     f"{c['hog_alone_per_s']}, {c['hog_per_s']} / {c['hog_beside_paced_per_s']} | {', '.join(map(str, c['sms']))} |")
    return [*lines, ""]


def tables(checks):
    out = modes_table(checks)
    for one in checks:
        if one["check"].startswith("NCCL") and "all_reduce" in one:
            out += nccl_table(one)
        if one["check"].startswith("density") and "rounds" in one:
            out += density_table(one)
        if one["check"].startswith("end to end") and "gemm" in one:
            out += whole_table(one)
    return out

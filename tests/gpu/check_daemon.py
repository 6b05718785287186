#!/usr/bin/env python3
"""The node daemon with a tenant of 10 GiB: bulkheadd with its sight child in a directory of its own, one part a call.

    check_daemon.py --part join|reuse|storm|sentinel|agreement|limits|cost [--seconds 22] [--seed N] [--deaths 20]

The directory is $BULKHEAD_DIR, else a temporary one. With BULKHEAD_SIM and the simulator in LD_LIBRARY_PATH it runs without a GPU."""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from node import Node, ask, fills, lead_deaths, lead_storm, ns_of, ready, until

GIB, MIB = 1 << 30, 1 << 20
QUOTA = 10 * GIB
HERE = pathlib.Path(__file__).resolve().parent


def spread(name, values):
    """p50, p99 and max, milliseconds."""
    ordered = sorted(values)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{k}": round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
            for k, share in at.items()}


def ms(later_ns, earlier_ns):
    return (later_ns - earlier_ns) / 1e6


def join(node, _):
    """A process is seen: by its event, in `status`, in `top`."""
    events = node.events()
    p = node.run("serve")
    pid, joined_ns = ready(p)
    event = events.wait(["process-joined"], pid, watchdog_s=10)
    ready_ns = time.time_ns()
    in_status = any(q["pid"] == pid for q in node.status("t")["processes"])
    status_ms = ms(time.time_ns(), ready_ns)
    top = json.loads(node.call("top", "--json", "-n", "1").stdout)
    in_top = any(q["pid"] == pid for t in top["tenants"] if t["name"] == "t" for q in t["processes"])
    event_ms = ms(ns_of(event["time"]), joined_ns) if event else None
    strangers = [e["text"] for e in events.of(["bypass-found"], key="gpu")]  # `run` measuring the driver must not be one
    events.end()
    return in_status and in_top and event_ms is not None and event_ms < 1000, {
        "event_after_ms": event_ms, "in_status": in_status, "status_took_ms": round(status_ms, 1), "in_top": in_top,
        "told_as_bypass": strangers,
        "top_from": next((t["from"] for t in top["tenants"] if t["name"] == "t"), None)}


def reuse(node, options):
    """Deaths of holders of 6 GiB. In the first ones a second process of the tenant asks for 6 GiB in a loop from the moment the
    kernel reports the death; in the others nobody does, and the daemon is alone with it."""
    events = node.events()
    records = lead_deaths(node, events, options.deaths, options.quiet, 6 * GIB)
    racing = [r for r in records if r["racing"]]
    told = [r for r in records if r["told"]]
    by_daemon = [r for r in told if r["told"]["kind"] == "process-reaped" and r["told"]["text"].startswith("ended")]
    by_scan = [r for r in told if r["told"]["kind"] == "process-reaped" and r not in by_daemon]  # its second look, a second later
    quiet = [r for r in by_daemon if not r["racing"]]
    events.end()
    delay = "bulkhead_reap_delay_seconds"
    until(lambda: (node.metric(delay + "_count") or 0) >= len(by_daemon), "the daemon's figures", 5)
    buckets = [line.split("{le=")[1] for line in node.metrics().splitlines() if line.startswith(delay + "_bucket")]
    ok = (len(racing) >= options.deaths and len(records) == options.deaths + options.quiet and len(quiet) > 0
          and all(r["held"] for r in records) and all(r["granted_ns"] for r in racing) and all(r["told"] for r in records))
    return ok, {
        "deaths": len(records), "raced": len(racing), "granted": sum(r["granted_ns"] is not None for r in racing),
        "reaped_by_daemon": len(by_daemon), "quiet_reaped_by_daemon": len(quiet), "reaped_by_its_scan": len(by_scan),
        "reaped_by_others": len(told) - len(by_daemon) - len(by_scan), "untold": len(records) - len(told),
        **spread("kernel_reports_ms", [ms(r["reported_ns"], r["killed_ns"]) for r in records]),
        **spread("granted_after_report_ms", [ms(r["granted_ns"], r["reported_ns"]) for r in racing if r["granted_ns"]]),
        "tries_max": max((r["tries"] for r in racing), default=0),
        # below zero: the daemon was faster than the process that read the clock beside it
        **spread("daemon_freed_after_report_ms", [ms(ns_of(r["told"]["time"]), r["reported_ns"]) for r in quiet]),
        **spread("daemon_freed_while_raced_ms", [ms(ns_of(r["told"]["time"]), r["reported_ns"]) for r in by_daemon if r["racing"]]),
        "reap_delay_sum_s": node.metric(delay + "_sum"), "reap_delay_count": node.metric(delay + "_count"),
        "reap_delay_buckets": [b for b in buckets if not b.endswith(" 0")][:6]}


def storm(node, options):
    """Allocating processes and the daemon die at random moments; afterwards nothing of them may be left."""
    from outside import Sampler
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    alone = fills(node, "alone", "10GiB")
    samplers, begin = [], time.monotonic()
    said, by_us, by_itself = lead_storm(node, 100000, 16, options.seconds, options.seed, 3,
                                        lambda crew: samplers.append(Sampler(crew.pid)))
    seconds = time.monotonic() - begin
    samplers[0].stop()
    most = samplers[0].most
    after = fills(node, "t", "10GiB")
    begin = time.monotonic()
    try:
        until(lambda: node.used() == 0, "books are empty", 10)
    except RuntimeError:
        pass
    empty_s, books = time.monotonic() - begin, node.used()
    kinds = [line.split('"kind":')[1].split('"')[1] for line in node.call("events", "--json").stdout.splitlines()]
    wrong = {kind: kinds.count(kind) for kind in ("tenant-faulty", "limit-tampered", "drift") if kind in kinds}
    problems = node.status()["problems"]
    leaked = alone.get("taken_bytes", 0) - after.get("taken_bytes", 0)
    ok = (said.get("kills", 0) > 0 and said.get("died_otherwise") == 0 and leaked == 0 and alone == after and books == 0
          and most <= QUOTA and by_us > 0 and by_itself == 0 and not problems and not set(wrong) - {"drift"})
    return ok, {
        "seed": options.seed, **said, "seconds": round(seconds, 1), "daemon_kills": by_us, "daemon_died_itself": by_itself,
        "leaked_bytes": leaked, "books_at_end_bytes": books, "books_empty_after_s": round(empty_s, 2), "most_seen_bytes": most,
        "over_bytes": max(0, most - QUOTA), "samples": samplers[0].samples, "alone": alone, "after": after, "events": wrong,
        "problems": problems}


def sentinel(node, _):
    """A process that never saw the library takes 1 GiB."""
    events = node.events()
    p = node.bare("serve")
    pid, _ = ready(p)
    began_ns = time.time_ns()
    took = ask(p, f"take {GIB}")
    found = events.wait(["bypass-found"], pid, "gpu", 10)

    def shown_stray():
        return next((s for s in node.strays(pid) if s["kind"] == "unregistered" and s["bytes"] >= GIB), None)

    try:
        stray = until(shown_stray, "it in status", 10)
    except RuntimeError:
        stray = None
    stray_ns = time.time_ns()
    line = next((s.strip() for s in node.call("status").stdout.splitlines() if f"bypass  {pid} " in s), None)
    try:
        until(lambda: (node.metric("bulkhead_bypasses_found_total") or 0) >= 1, "the metric", 5)
    except RuntimeError:
        pass
    metric, samples = node.metric("bulkhead_bypasses_found_total"), node.metrics().splitlines()
    shown = sum(float(s.split()[-1]) for s in samples if s.startswith("bulkhead_stray_memory_bytes{") and 'kind="unregistered"' in s)
    ended_ns = time.time_ns()
    p.communicate()
    gone = events.wait(["bypass-gone"], pid, "gpu", 10)
    events.end()
    found_s = ms(ns_of(found["time"]), began_ns) / 1e3 if found else None
    return (took == 1 and found is not None and found_s < 5 and stray is not None and line is not None and (metric or 0) >= 1
            and shown >= GIB and gone is not None), {
        "found_after_s": found_s, "text": found and found["text"], "severity": found and found["severity"],
        "in_status_after_s": round(ms(stray_ns, began_ns) / 1e3, 2) if stray else None, "stray_bytes": stray and stray["bytes"],
        "command": stray and stray["command"], "status_line": line, "found_total": metric, "stray_metric_bytes": int(shown),
        "gone_after_s": round(ms(ns_of(gone["time"]), ended_ns) / 1e3, 2) if gone else None}


def smi(node):
    """MiB in use as a process of the tenant is told."""
    if shutil.which("nvidia-smi") and not node.env.get("BULKHEAD_SIM"):
        argv = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    else:
        argv = [sys.executable, str(HERE / "in_daemon.py"), "used"]
    done = node.call("run", "-q", "--tenant", "t", "--", *argv)
    try:
        return float(done.stdout.split()[0]), argv[0]
    except (IndexError, ValueError):
        raise RuntimeError(f"{argv[0]}: {done.stdout[-200:]} {done.stderr[-200:]}") from None


def agreement(node, _):
    """Inside, in the books and by NVML outside: the same figure for plain allocations."""
    from outside import Sampler, tree
    p = node.run("serve")
    ready(p)
    taken = all(ask(p, f"take {size}") for size in (2 * GIB, 300 * MIB, 50 * MIB, 3 * MIB))
    sampler = Sampler(p.pid)
    begin, limit_s = time.monotonic(), 10
    while True:  # what NVML shows beyond the books is told to the process by the sampler, within a second
        inside, by = smi(node)
        books, outside = node.used() / MIB, sampler.now(tree(p.pid)) / MIB
        apart = max(inside, books, outside) - min(inside, books, outside)
        seconds = time.monotonic() - begin
        if apart <= 2 or seconds > limit_s:
            break
    sampler.stop()
    return taken and outside > 2048 and apart <= 2, {
        "inside_mib": inside, "asked_by": os.path.basename(by), "status_mib": round(books, 2), "outside_mib": round(outside, 2),
        "apart_mib": round(apart, 2), "after_s": round(seconds, 2)}


def limits(node, _):
    """`set` below what is held, and up again, under a running program."""
    p = node.run("serve")
    ready(p)
    took = ask(p, f"take {8 * GIB}")
    down = node.call("set", "t", "--memory", "6GiB")
    refused = ask(p, f"take {2 * MIB}") == 0
    limit_down, used_down, told_down = node.status("t")["devices"][0]["limit_bytes"], node.used(), ask(p, "total")
    alive = p.poll() is None
    up = node.call("set", "t", "--memory", "12GiB")
    begin, tries, grew = time.monotonic(), 0, 0
    while not grew and time.monotonic() - begin < 10:
        grew, tries = ask(p, f"take {GIB}"), tries + 1
    grew_ms = (time.monotonic() - begin) * 1e3
    told_up = ask(p, "total")
    text = down.stderr.strip()
    return (took == 1 and down.returncode == 0 and up.returncode == 0 and refused and alive and "cannot grow" in text
            and limit_down == told_down == 6 * GIB and used_down >= 8 * GIB and grew == 1 and told_up == 12 * GIB), {
        "down_text": text, "down_exit": down.returncode, "refused": refused, "alive": alive, "limit_down_bytes": limit_down,
        "used_down_bytes": used_down, "told_down_bytes": told_down, "up_exit": up.returncode, "up_text": up.stderr.strip(),
        "grew": grew, "grew_tries": tries, "grew_after_ms": round(grew_ms, 2), "told_up_bytes": told_up}


def cpu_ms(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def cost(node, _):
    """Ten seconds with one tenant that does nothing. Figures only."""
    p = node.run("serve")
    pid, _ = ready(p)
    ask(p, f"take {GIB}")
    parts = dict(zip(("daemon", "sight"), node.processes()))
    parts["run"], parts["tenant"] = p.pid, pid
    begin, before = time.monotonic(), {name: cpu_ms(q) for name, q in parts.items()}
    time.sleep(10)
    seconds = time.monotonic() - begin
    figures = {f"{name}_cpu_percent": round((cpu_ms(q) - before[name]) / seconds / 10, 3) for name, q in parts.items()}
    sizes = {f"{name}_rss_mib": round(rss(q) / MIB, 1) for name, q in parts.items() if name != "tenant"}
    return "sight" in parts, {"seconds": round(seconds, 1), **figures, **sizes}


PARTS = {"join": (join, "daemon: a process joins"), "reuse": (reuse, "daemon: death of a 6 GiB holder to its reuse"),
         "storm": (storm, "daemon: random SIGKILLs of processes and of the daemon"),
         "sentinel": (sentinel, "daemon: a process around the library"),
         "agreement": (agreement, "daemon: inside, books and NVML agree"),
         "limits": (limits, "daemon: limits under a running program"), "cost": (cost, "daemon: cost at idle")}


def time_is_over(*_):
    raise RuntimeError("the time is over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--seconds", type=float, default=22)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--quiet", type=int, default=8)
    options = parser.parse_args()
    part, name = PARTS[options.part]
    temporary = None
    if "BULKHEAD_DIR" not in os.environ:
        temporary = tempfile.TemporaryDirectory(prefix="bulkhead-gpu-")
        os.environ["BULKHEAD_DIR"] = temporary.name + "/dir"
    from outside import BULKHEAD, emit  # NVML of the simulator looks at BULKHEAD_DIR
    node, begin = Node(BULKHEAD, os.environ), time.monotonic()
    signal.signal(signal.SIGTERM, time_is_over)  # run.sh's limit: the daemon goes with this process
    try:
        node.start()
        ok, figures = part(node, options)
    except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        ok, figures = False, {"error": f"{type(error).__name__}: {error}"[-500:]}
    alive = node.process is not None and node.process.poll() is None
    code = node.stop() if alive else node.process and node.process.returncode
    emit(name, ok and alive and code == 0, **figures, daemon_exit=code, part_seconds=round(time.monotonic() - begin, 1))
    if temporary:
        temporary.cleanup()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""SIGKILL at random moments to processes that allocate in one tenant of 10 GiB; then, whether anything of them is left.

    check_storm.py [--kills 1000] [--at-a-time 16] [--seconds 100] [--seed N]

In one `bulkhead run`, AT_A_TIME workers live at once: each makes a context (or dies while it does), then takes and
frees pieces until it is killed. Half are killed at any moment since their start, half once they hold memory. Outside,
NVML is asked every 10 ms for what all of them have together: never more than the quota. At the end a new process must
get all that one in an equal tenant that knew no death gets, and the books must say the same.

Then one process of a tenant tries, from the moment the kernel reports the death of another that held 6 GiB, until 6 GiB
are granted: the time a death keeps memory."""
import argparse
import json
import os
import subprocess
import sys
import time

from outside import BULKHEAD, HERE, Sampler, emit, inside, last_json

QUOTA = 10 << 30


def in_tenant(tenant, *args):
    argv, env = inside([sys.executable, str(HERE / "in_storm.py"), *args], "10GiB", {"BH_QUOTA": str(QUOTA)}, tenant)
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)


def books(tenant):
    """Bytes that the tenant's books hold with nobody living."""
    out = subprocess.run([BULKHEAD, "status", "--json"], stdout=subprocess.PIPE, text=True, timeout=30).stdout
    for one in json.loads(out).get("tenants", []):
        if one.get("name") == tenant:
            return sum(d.get("used_bytes", 0) for d in one.get("devices", []))
    return None


def storm(options):
    alone = last_json(in_tenant(f"alone-{os.getpid()}", "--fill").communicate(timeout=60)[0]) or {}
    tenant = f"storm-{os.getpid()}"
    begin = time.monotonic()
    child = in_tenant(tenant, "--crew", str(options.kills), str(options.at_a_time), str(options.seconds), str(options.seed))
    sampler = Sampler(child.pid)
    said = last_json(child.communicate(timeout=options.seconds + 60)[0]) or {}
    seconds = time.monotonic() - begin
    sampler.stop()
    after = last_json(in_tenant(tenant, "--fill").communicate(timeout=60)[0]) or {}
    leaked = alone.get("taken_bytes", 0) - after.get("taken_bytes", 0)
    in_books = books(tenant)
    emit("random SIGKILLs of allocating processes",
         said.get("kills", 0) > 0 and said.get("died_otherwise") == 0 and leaked == 0 and alone == after
         and sampler.most <= QUOTA,
         seed=options.seed, **said, at_a_time=options.at_a_time, seconds=round(seconds, 1), quota_bytes=QUOTA,
         most_seen_bytes=sampler.most, over_bytes=max(0, sampler.most - QUOTA), percent=round(100 * sampler.most / QUOTA, 3),
         samples=sampler.samples, leaked_bytes=leaked, alone=alone, after=after, books_at_end_bytes=in_books)


def at(values, share):
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def death_to_reuse(options):
    crews = [in_tenant(f"reuse-{os.getpid()}-{i}", "--reuse", str(options.deaths)) for i in range(4)]
    said = [last_json(one.communicate(timeout=120)[0]) or {"death_ms": [], "reuse_ms": [], "failed": 1} for one in crews]
    death, again = ([x for one in said for x in one[key]] for key in ("death_ms", "reuse_ms"))
    failed = sum(one["failed"] for one in said)
    figures = {f"{name}_{label}": at(values, share) for name, values in (("death_reported_ms", death), ("reusable_after_ms", again))
               for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    emit("death of a 6 GiB holder to its reuse", failed == 0 and again, deaths=len(again), failed=failed, **figures)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--at-a-time", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--deaths", type=int, default=12)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--part", choices=["storm", "reuse"], default="storm")
    options = parser.parse_args()
    (storm if options.part == "storm" else death_to_reuse)(options)


if __name__ == "__main__":
    main()

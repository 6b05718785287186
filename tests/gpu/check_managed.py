#!/usr/bin/env python3
"""Managed memory in a tenant of 10 GiB against the device's own figure: NVML shows it for no process.

Alone on the machine. What the tenant has is what the device shows in use over what it showed before the program began,
with a process outside the tenant holding a context all the time (the driver's own first part is nobody's)."""
import subprocess
import sys

import pynvml

from outside import HERE, emit, inside, last_json

QUOTA = 10 << 30


def start(command, **options):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def main():
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    program = [sys.executable, str(HERE / "in_driver.py")]
    keeper = start([*program, "keep"])
    keeper.stdout.readline()
    before = pynvml.nvmlDeviceGetMemoryInfo(device).used
    argv, env = inside([*program, "managed"], "10GiB", {"BH_QUOTA": str(QUOTA)})
    child = start(argv, env=env)
    stages = {}
    for _ in range(3):
        stage = child.stdout.readline().strip()
        stages[stage] = pynvml.nvmlDeviceGetMemoryInfo(device).used - before
        child.stdin.write("\n")
        child.stdin.flush()
    out, _ = child.communicate(timeout=30)
    keeper.communicate()
    said, most = last_json(out) or {}, stages.get("full", 0)
    emit("managed memory fills its quota", said.get("ok") and most <= QUOTA and 100 * most >= 99.5 * QUOTA,
         most_seen_bytes=most, quota_bytes=QUOTA, over_bytes=max(0, most - QUOTA), percent=round(100 * most / QUOTA, 3),
         device_rise_bytes=stages, exit=child.returncode, inside=said)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Managed memory in a tenant of 10 GiB against the device's own figure: NVML shows it for no process.

Alone on the machine. What the tenant has is NVML's figure of its process once it has a context, and what the device shows
in use beyond that moment. A process outside the tenant holds a context all the time (the driver's own first part is
nobody's), and what a context takes of the device above NVML's figure is the driver's, not the tenant's."""
import subprocess
import sys
import time

import pynvml

from outside import HERE, emit, inside, last_json, tree

QUOTA = 10 << 30
# Unified memory takes the device by 128 MiB, so with managed memory alone a tenant comes to the last whole batch under
# its quota and no nearer: its context of 518 MiB and 75 batches are 10118 of 10240 MiB, 98.8 %.
BATCH = 128 << 20


def start(command, **options):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def own_bytes(device, root):
    members = tree(root)
    return sum(p.usedGpuMemory or 0 for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device) if p.pid in members)


def main():
    started = time.monotonic()
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    program = [sys.executable, str(HERE / "in_driver.py")]
    keeper = start([*program, "keep"])
    keeper.stdout.readline()
    before = pynvml.nvmlDeviceGetMemoryInfo(device).used
    argv, env = inside([*program, "managed"], "10GiB", {"BH_QUOTA": str(QUOTA)})
    child = start(argv, env=env)
    stages, own = {}, 0
    for _ in range(3):
        stage = child.stdout.readline().strip()
        stages[stage] = pynvml.nvmlDeviceGetMemoryInfo(device).used - before
        if stage == "context":
            own = own_bytes(device, child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
    out, _ = child.communicate(timeout=30)
    keeper.communicate()
    said = last_json(out) or {}
    managed = stages.get("full", 0) - stages.get("context", 0)
    most = own + managed
    emit("managed memory fills its quota", said.get("ok") and own > 0 and most <= QUOTA and managed >= QUOTA - own - BATCH,
         most_seen_bytes=most, quota_bytes=QUOTA, over_bytes=max(0, most - QUOTA), percent=round(100 * most / QUOTA, 3),
         seconds=round(time.monotonic() - started, 1), own_bytes=own, device_rise_bytes=stages, exit=child.returncode, inside=said)


if __name__ == "__main__":
    main()

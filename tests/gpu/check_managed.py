#!/usr/bin/env python3
"""Managed memory in a tenant of 10 GiB against the device's own figure: NVML shows it for no process.

Alone on the machine. What the tenant has = what the device shows in use now, less what it showed before the program
began, except for the process's own part, which is known by itself."""
import subprocess
import sys

import pynvml

from outside import HERE, Sampler, emit, inside, last_json

QUOTA = 10 << 30


def main():
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    argv, env = inside([sys.executable, str(HERE / "in_driver.py"), "managed"], "10GiB", {"BH_QUOTA": str(QUOTA)})
    child = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    sampler = Sampler(child.pid)
    own = max(p.usedGpuMemory or 0 for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device))
    base = pynvml.nvmlDeviceGetMemoryInfo(device).used - own
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()
    most = pynvml.nvmlDeviceGetMemoryInfo(device).used - base
    sampler.stop()
    out, _ = child.communicate("\n", timeout=30)
    said = last_json(out) or {}
    emit("managed memory fills its quota", said.get("ok") and most <= QUOTA and 100 * most >= 99.5 * QUOTA,
         most_seen_bytes=most, quota_bytes=QUOTA, over_bytes=max(0, most - QUOTA), percent=round(100 * most / QUOTA, 3),
         own_bytes_before=own, seconds=0, exit=child.returncode, inside=said)


if __name__ == "__main__":
    main()

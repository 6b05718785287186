#!/usr/bin/env python3
"""nvidia-smi inside a tenant that another process of the same tenant fills with 2 GiB: it must tell the quota as the
total, and as used at least what that process holds and at most what NVML outside sees of the tenant."""
import json
import os
import subprocess
import sys

from outside import HERE, Sampler, emit, inside

QUOTA_MIB = 10240


def main():
    tenant = f"smi-{os.getpid()}"
    environment = {"BH_QUOTA": str(QUOTA_MIB << 20)}
    argv, env = inside([sys.executable, str(HERE / "in_torch.py"), "hold", str(2 << 30)], "10GiB", environment, tenant)
    holder = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = holder.stdout.readline()
    sampler = Sampler(holder.pid)
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    argv, env = inside(query, "10GiB", environment, tenant)
    answer = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    argv, env = inside(["nvidia-smi"], "10GiB", environment, tenant)
    page = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    seen = sampler.now({holder.pid, *sampler.pids}) or sampler.most
    sampler.stop()
    seen = max(seen, sampler.most)
    holder.stdin.close()
    holder.wait(30)
    try:
        total, used = (int(part) for part in answer.stdout.strip().splitlines()[0].split(","))
    except (ValueError, IndexError):
        emit("nvidia-smi in a tenant", False, stdout=answer.stdout[-300:], stderr=answer.stderr[-300:])
        return
    ready = first.startswith("{") and json.loads(first)["ok"]
    ok = ready and total == QUOTA_MIB and 2048 <= used <= total and f"{QUOTA_MIB}MiB" in page.stdout
    emit("nvidia-smi in a tenant", ok, total_mib=total, used_mib=used, outside_mib=round(seen / (1 << 20), 1),
         page_shows_total=f"{QUOTA_MIB}MiB" in page.stdout)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""SIGKILL of a process that holds 6 of a tenant's 10 GiB: the next process of the tenant must get all of it at once.

What `all of it` is comes from a first program, alone in an equal tenant."""
import json
import os
import select
import signal
import subprocess
import sys
import time

from outside import HERE, emit, inside, last_json, tree

ENVIRONMENT = {"BH_QUOTA": str(10 << 30)}


def fills(tenant):
    argv, env = inside([sys.executable, str(HERE / "in_torch.py"), "fill"], "10GiB", ENVIRONMENT, tenant)
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, timeout=90)
    return last_json(done.stdout) or {}


def main():
    alone = fills(f"kill-alone-{os.getpid()}")
    tenant = f"kill-{os.getpid()}"
    argv, env = inside([sys.executable, str(HERE / "in_torch.py"), "hold", str(6 << 30)], "10GiB", ENVIRONMENT, tenant)
    holder = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ready = json.loads(holder.stdout.readline() or '{"ok": false}')["ok"]
    victims = tree(holder.pid) - {holder.pid} or {holder.pid}  # what `run` started, if it stays above it
    watches = [os.pidfd_open(pid) for pid in victims]
    started = time.monotonic()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for watch in watches:
        select.select([watch], [], [], 30)
    death_s = time.monotonic() - started
    after = fills(tenant)
    holder.stdin.close()
    holder.wait(30)
    leaked = alone.get("taken_bytes", 0) - after.get("taken_bytes", 0)
    emit("SIGKILL of a 6 GiB holder, next takes all", ready and after.get("ok") and leaked == 0,
         kernel_reports_death_ms=round(death_s * 1000, 1), alone_bytes=alone.get("taken_bytes"),
         after_bytes=after.get("taken_bytes"), leaked_bytes=leaked, run_exit=holder.returncode)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs one program inside a tenant and looks at it from outside: what the checks of this folder have in common.

    outside.py --check NAME [--memory 10GiB] [--fills] [--env K=V]... [--no-run] -- COMMAND...

The command is started as `bulkhead run --memory ... -- COMMAND` (plain with --no-run) while this process, which is in
no tenant, asks NVML every 10 ms for the bytes of its whole process tree. The program prints one line of JSON, its view
from inside, with `ok`. One line of JSON leaves here: `ok` is true only if the program said so, no sample was above the
quota and, with --fills, the largest was at least 99.5 % of it.
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pynvml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BULKHEAD = os.environ.get("BULKHEAD", str(ROOT / "build/release/bin/bulkhead"))
MIN_PERCENT = 99.5
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def bytes_of(size):
    return int(size[:-3]) * UNITS[size[-3:]]


def tree(root):
    """The pids of a process and all its descendants that live now."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as stat:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found, todo = set(), [root]
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


class Sampler:
    """Samples a process tree's NVML bytes every 10 ms until stopped. `most` is the largest sum, `own` the largest a pid."""

    def __init__(self, pid, period_s=0.010):
        pynvml.nvmlInit()
        self.devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        self.pid, self.period_s = pid, period_s
        self.most, self.samples, self.pids = 0, 0, set()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def now(self, members):
        total = 0
        for device in self.devices:
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.pid in members and process.usedGpuMemory:
                    total += process.usedGpuMemory
                    self.pids.add(process.pid)
        return total

    def run(self):
        while not self.stopping.wait(self.period_s):
            self.most = max(self.most, self.now(tree(self.pid)))
            self.samples += 1

    def stop(self):
        self.stopping.set()
        self.thread.join()


def inside(command, memory, environment=None, tenant=None):
    """The command line of a program in a tenant, and its environment."""
    name = ["--tenant", tenant] if tenant else []
    return [BULKHEAD, "run", *name, "--memory", memory, "--", *command], {**os.environ, **(environment or {})}


def last_json(text):
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None


def emit(check, ok, **figures):
    print(json.dumps({"check": check, "ok": None if ok is None else bool(ok), **figures}), flush=True)


def run(check, command, memory, fills, environment, timeout_s, tenant=None, plain=False):
    """Runs a program, samples it, prints the line. True if the check holds."""
    quota = bytes_of(memory)
    argv, env = inside(command, memory, environment, tenant)
    started = time.monotonic()
    child = subprocess.Popen(command if plain else argv, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    sampler = Sampler(child.pid)
    timed_out = False
    try:
        out, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(child.pid, signal.SIGKILL)
        out, _ = child.communicate()
    sampler.stop()
    said = last_json(out)
    figures = {"seconds": round(time.monotonic() - started, 1), "exit": child.returncode, "timed_out": timed_out,
               "quota_bytes": quota, "most_seen_bytes": sampler.most, "samples": sampler.samples,
               "processes_seen": len(sampler.pids), "percent": round(100 * sampler.most / quota, 3),
               "over_bytes": max(0, sampler.most - quota), "inside": said}
    ok = child.returncode == 0 and said is not None and said.get("ok") is True and sampler.most > 0
    if not plain:
        ok = ok and sampler.most <= quota
        ok = ok and (not fills or 100 * sampler.most >= MIN_PERCENT * quota)
    if said is not None and said.get("skipped"):
        emit(check, None, skipped=said["skipped"])
        return True
    emit(check, ok, **figures)
    return ok


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", required=True)
    parser.add_argument("--memory", default="10GiB")
    parser.add_argument("--fills", action="store_true")
    parser.add_argument("--no-run", action="store_true")
    parser.add_argument("--tenant")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=float(os.environ.get("CHECK_TIMEOUT_S", "90")))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    environment = dict(one.split("=", 1) for one in args.env)
    ok = run(args.check, command, args.memory, args.fills, environment, args.timeout, args.tenant, args.no_run)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Whether a process can read what another left in the GPU's memory: check_residual.py [--gib N] [--take N] [--mps] [--seconds N].

A fills memory with a pattern and gives it back, ends, resets its context or is killed; B, another process, takes memory that it does not write
and counts the pattern and what is not zero. Without a layer of ours: it is the driver that is asked (with LD_PRELOAD in the
environment it is asked with the library, `scrub` and all). Beside it, as a control that the look finds something, the same within one
process, whose own data it is. A line of JSON a case; nobody else may use the GPU."""
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

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = [sys.executable, str(HERE / "in_residual.py")]
WATCHDOG_S = 60


class Process:
    def __init__(self, act, kind, gib, env):
        self.p = subprocess.Popen([*PROGRAM, act, kind, str(gib)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = self.p.stdout.readline().split() if act != "reuse" else []

    def tell(self, word):
        self.p.stdin.write(word + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline()

    def kill(self):
        self.p.send_signal(signal.SIGKILL)
        self.p.wait()

    def end(self):
        if self.p.poll() is None:
            self.kill()
        self.p.stdin.close()
        self.p.stdout.close()


def between(kinds, how, sizes, env, early):
    """A fills and ends by `how`; what B finds. `early`: B's context is there before A ends."""
    a = Process("fill", kinds[0], sizes[0], env)
    b = None
    try:
        if not a.said or a.said[0] != "held":
            return {"error": "the filler ended"}
        b = Process("look", kinds[1], sizes[1], env) if early else None
        if how == "killed":
            a.kill()
        elif how in ("free", "reset"):
            if a.tell(how).strip() not in ("freed", "reset"):
                return {"error": f"the filler did not {how}"}
        elif how == "exit":
            a.p.stdin.write("exit\n")
            a.p.stdin.flush()
            a.p.wait(WATCHDOG_S)
        b = b or Process("look", kinds[1], sizes[1], env)
        if b.said != ["there"]:
            return json.loads(" ".join(b.said) or '{"error": "the looker ended"}')
        return json.loads(b.tell("look") or '{"error": "the looker ended"}')
    finally:
        for one in (a, b):
            if one:
                one.end()


def within(kind, gib, env):
    p = Process("reuse", kind, gib, env)
    try:
        return json.loads(p.p.stdout.readline() or '{"error": "it ended"}')
    finally:
        p.end()


def ipc(gib, take, env):
    """A's memory was opened by B through IPC; both are gone. What C finds."""
    a = subprocess.Popen([sys.executable, str(HERE / "in_residual_ipc.py"), str(gib)], env=env, stdout=subprocess.PIPE, text=True)
    try:
        if a.communicate(timeout=WATCHDOG_S)[0].strip() != "opened and written":
            return {"error": "IPC did not work"}
    except subprocess.TimeoutExpired:
        a.kill()
        a.communicate()
        return {"error": "IPC hung"}
    c = Process("look", "plain", take, env)
    try:
        return json.loads(c.tell("look") or '{"error": "the looker ended"}')
    finally:
        c.end()


class Mps:
    """A control daemon of our own; nothing where there is none."""

    def __init__(self, env):
        self.home = tempfile.mkdtemp(prefix="bulkhead-residual-mps-")
        self.env = {**env, "CUDA_MPS_PIPE_DIRECTORY": self.home + "/pipe", "CUDA_MPS_LOG_DIRECTORY": self.home + "/log"}
        for name in ("pipe", "log"):
            os.mkdir(f"{self.home}/{name}")
        self.control = shutil.which("nvidia-cuda-mps-control")
        self.good = bool(self.control) and subprocess.run([self.control, "-d"], env=self.env).returncode == 0

    def end(self):
        if self.good:
            subprocess.run([self.control], input="quit -t 1\n", env=self.env, text=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.home, ignore_errors=True)


def emit(mode, kind, how, found):
    line = {"check": "residual", "mode": mode, "kind": kind, "first": how, **found}
    if "left" in found and how != "same process":
        line["ok"] = found["bytes"] > 0 and found["left"] == 0
    print(json.dumps(line), flush=True)
    return line.get("ok", "error" not in line)


# What A fills, what B takes, how A ends, whether B is there before.
CASES = (("plain", "plain", "killed", False), ("plain", "plain", "free", True), ("plain", "plain", "exit", False), ("small", "plain", "killed", False),
         ("small", "small", "free", True), ("pool", "pool", "free", True), ("pool", "plain", "killed", True), ("pool", "pool", "exit", False),
         ("shared", "shared", "beside", True), ("vmm", "plain", "killed", True), ("vmm", "vmm", "free", True), ("plain", "plain", "reset", True),
         ("managed", "plain", "killed", False), ("managed", "managed", "free", True), ("host", "host", "killed", False))


def one_mode(mode, env, options, late):
    """False: something was left."""
    own = {"small": min(options.gib, 1), "host": min(options.gib, 1), "managed": min(options.gib, 8), "shared": 1}
    good = True
    for filled, taken, how, early in CASES:
        if late():
            print(json.dumps({"check": "residual", "mode": mode, "kind": filled, "first": how, "skipped": "no time left"}), flush=True)
            continue
        sizes = own.get(filled, options.gib), own.get(taken, options.take)
        found = between((filled, taken), how, sizes, env, early)
        kind = filled if filled == taken else f"{filled}, then {taken}"
        good = emit(mode, kind, how + (", B was there" if early else ""), found) and good
    if not late():
        good = emit(mode, "plain", "shared by IPC, both ended", ipc(min(options.gib, 8), options.take, env)) and good
        for kind in ("small", "plain", "pool", "vmm", "shared"):
            emit(mode, kind, "same process", within(kind, min(options.gib, 1), env))
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=60, help="what A fills")
    parser.add_argument("--take", type=float, default=0, help="what B takes (0: all there is)")
    parser.add_argument("--mps", action="store_true", help="as clients of an MPS server too")
    parser.add_argument("--seconds", type=float, default=600, help="nothing is begun after")
    options = parser.parse_args()
    began, good = time.monotonic(), True
    modes = ["separate contexts"] + ["MPS"] * options.mps
    for i, mode in enumerate(modes):
        mps = Mps(dict(os.environ)) if mode == "MPS" else None
        if mps and not mps.good:
            print(json.dumps({"check": "residual", "mode": mode, "skipped": "no MPS control daemon"}), flush=True)
        else:
            until = began + options.seconds * (i + 1) / len(modes)
            good = one_mode(mode, mps.env if mps else dict(os.environ), options, lambda: time.monotonic() > until) and good
        if mps:
            mps.end()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the checks of the daemon run inside a tenant (or beside all tenants), over the driver API alone.

    in_daemon.py serve                          a context, then orders from stdin, a line of answer each
    in_daemon.py deaths RACING QUIET BYTES      kills holders of BYTES one after another; speaks with who started it
    in_daemon.py used                           MiB in use on the first GPU, as NVML tells them here
    in_daemon.py uses PID                       bytes of that process on the first GPU, as NVML tells them here

Orders of `serve`: `take BYTES` -> 1 or 0; `give` the last one back -> 1; `fill` -> bytes taken, to the last 2 MiB;
`total` -> bytes; `late BYTES` -> 0: a kernel whose code takes them at its first launch (simulated driver only); `race PID BYTES` -> armed, and after that process's death JSON: when it was reported, when BYTES were granted.
"""
import ctypes
import json
import os
import select
import subprocess
import sys
import time

from cuda_driver import MIB, Driver

GIVE_UP_S = 20


def race(cu, pid, size):
    watch = os.pidfd_open(pid)
    print("armed", flush=True)
    select.select([watch], [], [], GIVE_UP_S)
    reported_ns, end = time.time_ns(), time.monotonic() + GIVE_UP_S
    got, tries = None, 0
    while got is None and time.monotonic() < end:
        got = cu.alloc(size)
        tries += 1
    granted_ns = time.time_ns() if got is not None else None
    os.close(watch)
    if got is not None:
        cu.free(got)
    return json.dumps({"reported_ns": reported_ns, "granted_ns": granted_ns, "tries": tries})


def fill(cu, held):
    taken, size = 0, 256 * MIB
    while size >= 2 * MIB:
        got = cu.alloc(size)
        if got is None:
            size //= 2
            continue
        held.append(got)
        taken += size
    return taken


def late(cu, size):
    text = (f"// bulkhead-sim-lazy-bytes={size}\n.version 7.0\n.target sm_70\n.address_size 64\n"
            ".visible .entry other() { ret; }\n").encode()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    cu.call("cuModuleLoadData", ctypes.byref(module), text)
    cu.call("cuModuleGetFunction", ctypes.byref(function), module, b"other")
    return cu.ask("cuLaunchKernel", function, *[1] * 6, 0, None, None, None)


def serve():
    cu = Driver()
    attached_ns = time.time_ns()  # the library joins at cuInit
    cu.primary()
    print("ready", os.getpid(), attached_ns, flush=True)
    held = []
    for line in sys.stdin:
        order, *words = line.split()
        if order == "take":
            got = cu.alloc(int(words[0]))
            held += [got] if got is not None else []
            answer = int(got is not None)
        elif order == "give":
            cu.free(held.pop())
            answer = 1
        elif order == "fill":
            answer = fill(cu, held)
        elif order == "total":
            answer = cu.total()
        elif order == "late":
            answer = late(cu, int(words[0]))
        else:
            answer = race(cu, int(words[0]), int(words[1]))
        print(answer, flush=True)


class Server:
    """A `serve` of the same tenant."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a process of the tenant ended by itself")
        return line.strip()

    def ask(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.communicate()


def deaths(racing, quiet, size):
    """For each death it prints `holding PID` and waits for a line (the daemon watches the process), then JSON and waits
    again (the daemon has told of it, where nobody raced). The next holders stand ready with their contexts."""
    second, ready = Server(), [Server(), Server()]
    second.read()
    for number in range(racing + quiet):
        holder = ready.pop(0)
        holder.read()
        pid = holder.process.pid
        took = holder.ask(f"take {size}")
        print("holding", pid, flush=True)
        sys.stdin.readline()
        if number < racing:
            second.ask(f"race {pid} {size}")
        watch = os.pidfd_open(pid)
        killed_ns = time.time_ns()
        holder.process.kill()
        select.select([watch], [], [], GIVE_UP_S)
        record = {"reported_ns": time.time_ns(), "granted_ns": None}
        if number < racing:
            record = json.loads(second.read())
        holder.process.communicate()
        os.close(watch)
        print(json.dumps({"pid": pid, "racing": number < racing, "held": took == "1", "killed_ns": killed_ns, **record}), flush=True)
        ready.append(Server())
        sys.stdin.readline()
    for one in [second, *ready]:
        one.end()
    print(json.dumps({"done": True}), flush=True)


class Use(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("bytes", ctypes.c_uint64), ("instances", ctypes.c_uint * 2)]


class Nvml:
    """Who holds how much of the first GPU."""

    def __init__(self):
        self.lib, self.gpu = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self.check(self.lib.nvmlInit_v2())
        self.check(self.lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.gpu)))

    def check(self, code):
        if code != 0:
            raise SystemExit(f"NVML: {code}")

    def bytes_of(self, pid):
        count, list_ = ctypes.c_uint(64), (Use * 64)()
        self.check(self.lib.nvmlDeviceGetComputeRunningProcesses_v3(self.gpu, ctypes.byref(count), list_))
        return sum(one.bytes for one in list_[:count.value] if one.pid == pid)


def uses(pid):
    print(Nvml().bytes_of(int(pid)))


def used():
    nvml, gpu, memory = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p(), (ctypes.c_uint64 * 3)()
    for code in (nvml.nvmlInit_v2(), nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)),
                 nvml.nvmlDeviceGetMemoryInfo(gpu, memory)):
        if code != 0:
            raise SystemExit(f"NVML: {code}")
    print(memory[2] / MIB)


if __name__ == "__main__":
    if sys.argv[1] == "deaths":
        deaths(*(int(word) for word in sys.argv[2:5]))
    else:
        {"serve": serve, "used": used, "uses": uses}[sys.argv[1]](*sys.argv[2:])

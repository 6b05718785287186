"""What a share must survive, on a GPU: the programs of tests/e2e/compute_client.cc under a quarter of its time beside a kernel of ten seconds,
a tenant that is killed in a kernel, and profilers.

    check_survive.py [--client build/release/tests/compute_client]

One line of JSON a part. `ok`: it ended as it would alone, was charged, and what must be given back was."""
import argparse
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from node import Node, ns_of, until

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 40
PROFILED = """
import torch, torch.profiler as p
a = torch.randn(2048, 2048, device="cuda", dtype=torch.half)
with p.profile(activities=[p.ProfilerActivity.CUDA, p.ProfilerActivity.CPU]) as prof:
    for _ in range(200):
        torch.mm(a, a)
    torch.cuda.synchronize()
kernels = [e for e in prof.events() if e.device_type.name == "CUDA" and "mem" not in e.name.lower()]
print("kernels", len(kernels), flush=True)
"""


class Program:
    """A program of the client in a tenant of its own; `under` goes before it (a profiler)."""

    def __init__(self, node, options, name, words, share="25%", under=(), env=None):
        argv = [node.bulkhead, "run", "-q", "--tenant", name, "--memory", "4GiB", "--compute", share, "--", *under, options.client, *map(str, words)]
        self.node, self.name, self.out = node, name, []
        self.process = subprocess.Popen(argv, env={**node.env, **(env or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        node.clients.append(self.process)
        self.wait("ready")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait(self, word):
        while True:
            if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
                raise RuntimeError(f"{self.name}: no {word}")
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.name} ended with {self.process.wait(PATIENCE_S)}: {self.process.stderr.read()[-300:]}")
            self.out.append(line)
            if line.split()[0] == word:
                return

    def end(self):
        """Its numbers and what it was charged; the tenant is gone then."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdin = None  # communicate() would flush it
        rest, err = self.process.communicate(timeout=PATIENCE_S)
        time_of = self.time()
        self.node.call("rm", self.name)
        return {"rc": self.process.returncode, "used_ms": round(time_of["used_ns"] / 1e6, 1), "held_ms": round(time_of["held_ns"] / 1e6, 1),
                **{w[0]: int(w[1]) for w in (line.split() for line in rest.splitlines()) if len(w) == 2 and w[1].isdigit()},
                **({"err": err[-200:]} if self.process.returncode else {})}

    def time(self):
        return self.node.status(self.name)["devices"][0]["time"]


def say(part, ok, **figures):
    print(json.dumps({"check": f"survive: {part}", "ok": bool(ok), **figures}), flush=True)


def guarded(part, work):
    begun = time.monotonic()
    try:
        ok, figures = work()
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        ok, figures = False, {"error": f"{type(error).__name__}: {error}"[:400]}
    say(part, ok, took_s=round(time.monotonic() - begun, 1), **figures)


def programs(node, options):
    """Each beside the long kernel."""
    forms = {"storm of 16 threads": ("storm", 50, 16, 60), "64 streams": ("streams", 100, 64, 640), "host callbacks": ("callbacks", 200, 200),
             "capture global": ("capture", 0, 100, 40), "capture thread": ("capture", 1, 100, 40), "capture relaxed": ("capture", 2, 100, 40),
             "graphs updated in place": ("update", 200, 100)}
    for n, (part, words) in enumerate(forms.items()):
        def one(words=words, n=n):
            p = Program(node, options, f"p{n}", words)
            p.wait("done")
            said = p.end()
            return said["rc"] == 0 and said["used_ms"] > 0 and said.get("called", 200) == 200, said
        guarded(part, one)

    def persistent():
        p = Program(node, options, "persist", ("persist",))
        p.wait("began")
        time.sleep(0.5)
        said = p.end()
        return said["rc"] == 0, said
    guarded("persistent kernel", persistent)


def long_kernel(node, options):
    """Ten seconds under a tenth of the time: it is charged as it runs, and ends by itself."""
    p = Program(node, options, "long", ("whole", 10_000_000), share="10%")
    p.wait("began")
    region = node.dir / "tenants" / "long" / "region"
    debt = lambda: int.from_bytes(region.read_bytes()[1843200:1843208], "little")
    first, seen = debt(), []
    for _ in range(6):
        time.sleep(0.5)
        seen.append(round((debt() - first) / 1e6))
    p.wait("done")
    time.sleep(0.3)  # the thread that measures wakes
    said = p.end()
    return said["rc"] == 0 and seen[-1] > seen[0], {"debt_ms_each_half_second": seen, **said}


def killed(node, options):
    """SIGKILL in a kernel of 30 s: when the daemon takes the share back after the kernel reports the death, and who asks for all of it then."""
    events = node.events()
    delays, asked = [], None
    for n in range(3):
        p = Program(node, options, f"k{n}", ("one", 30_000_000), share="25%")
        p.wait("began")
        pid = next(x["pid"] for x in node.status(p.name)["processes"])
        pidfd = os.pidfd_open(pid)
        events.wait(["process-joined"], pid, watchdog_s=10)
        os.kill(pid, signal.SIGKILL)
        select.select([pidfd], [], [], PATIENCE_S)
        reported = time.time_ns()
        os.close(pidfd)
        event = events.wait(["process-reaped", "process-ended"], pid, watchdog_s=10)
        delays.append(round((ns_of(event["time"]) - reported) / 1e6, 2) if event else None)
        p.process.communicate(timeout=PATIENCE_S)
        node.call("rm", p.name)
        asked = node.call("run", "-q", "--memory", "1GiB", "--compute", "90%", "--", "/bin/true").returncode
    events.end()
    return None not in delays and asked == 0, {"reaped_after_report_ms": delays, "next_asks_90_percent": asked}


def profilers(node, options):
    """Accounting only: it runs to its end, is charged and, where the profiler injects itself, not held."""
    def torch():
        r = subprocess.run([node.bulkhead, "run", "-q", "--memory", "8GiB", "--compute", "25%", "--", sys.executable, "-c", PROFILED], env=node.env,
                           capture_output=True, text=True, timeout=60)
        said = r.stdout.split()
        return r.returncode == 0 and said[:1] == ["kernels"] and int(said[1]) >= 200, {"said": r.stdout[-100:], "err": r.stderr[-200:] if r.returncode else ""}
    guarded("torch's profiler (CUPTI)", torch)
    for tool, words in (("compute-sanitizer", ["--tool", "memcheck"]), ("nsys", ["profile", "-o", str(node.dir.parent / "n"), "--force-overwrite=true"]),
                        ("ncu", ["--target-processes", "all", "--launch-count", "8", "--metrics", "gpu__time_duration.sum"])):
        path = shutil.which(tool) or next((str(p) for p in pathlib.Path("/usr/local").glob(f"cuda*/bin/{tool}")), None)
        if path is None:
            say(tool, True, skipped="not installed here")
            continue

        def one(path=path, words=words):
            p = Program(node, options, "profiled", ("streams", 100, 8, 80), under=(path, *words))
            p.wait("done")
            said = p.end()
            return said["rc"] == 0, said
        guarded(tool, one)
    def injected():
        p = Program(node, options, "injected", ("streams", 2000, 2, 200), env={"NVTX_INJECTION64_PATH": "/nowhere.so"})
        p.wait("done")
        said = p.end()
        return said["rc"] == 0 and said["held_ms"] == 0 and said["used_ms"] > 100, said
    guarded("an injected library: charged, not held", injected)


def main():
    parser = argparse.ArgumentParser()
    build = pathlib.Path(os.environ["BULKHEAD"]).resolve().parent.parent
    parser.add_argument("--client", default=str(build / "tests" / "compute_client"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    home = tempfile.mkdtemp(prefix="bhv")
    node = Node(os.environ["BULKHEAD"], {**os.environ, "BULKHEAD_DIR": os.environ.get("BULKHEAD_DIR", f"{home}/d")}, sight=False)
    try:
        node.start()
        long = threading.Thread(target=guarded, args=("a kernel of ten seconds", lambda: long_kernel(node, options)))
        long.start()
        programs(node, options)
        guarded("killed in a kernel", lambda: killed(node, options))
        profilers(node, options)
        long.join()
        say("the daemon is there", node.process.poll() is None)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for client in node.clients:
            if client.poll() is None:
                client.kill()
        if node.process and node.process.poll() is None:
            node.process.send_signal(signal.SIGTERM)
            node.process.wait(20)
        shutil.rmtree(home, ignore_errors=True)


main()

"""What the tests of spatial shares have in common: a control program of their own (fake_mps_control.py), daemons that use it, and what is seen of both."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

from cli_case import BULKHEAD
from daemon_control import DaemonCase

FAKE = pathlib.Path(__file__).resolve().parent / "fake_mps_control.py"
MPS = f"[mps]\nenabled = true\ngroups = ['g', 'h']\ncontrol = '{FAKE}'\n"
# What a process of a tenant is told of the GPU, and what stands in its environment.
SMS = """
import ctypes, os, sys
cu = ctypes.CDLL("libcuda.so.1")
if len(sys.argv) > 1:
    os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = sys.argv[1]
n = ctypes.c_int()
assert cu.cuInit(0) == 0
assert cu.cuDeviceGetAttribute(ctypes.byref(n), 16, 0) == 0
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
seen = {k: (libc.getenv(k.encode()) or b"").decode() for k in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")}
print(n.value, seen["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], seen["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
"""


class SpatialCase(DaemonCase):
    def setUp(self):
        super().setUp()
        self.home_of = lambda group: self.dir / "mps" / str(os.geteuid()) / group
        self.addCleanup(self.end_mps)

    def end_mps(self):
        """All of it, also what has no pid file yet: none may write below our directory when that is removed."""
        self.until(self.no_mps_after_a_kill, "no control program runs")

    def no_mps_after_a_kill(self):
        ours, found = f"CUDA_MPS_PIPE_DIRECTORY={self.dir}/mps/".encode(), False
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if FAKE.name.encode() in (process / "cmdline").read_bytes() and \
                        any(v.startswith(ours) for v in (process / "environ").read_bytes().split(b"\0")):
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue  # gone meanwhile
        return not found

    def verdict(self, **more):
        """As if `doctor --self-test` had seen it: the simulated driver has no state of its own that could say."""
        status = self.status()
        entry = {"uuid": status["gpus"][0]["uuid"], "driver": status["driver"], "name": "", "tested": "2026-11-22T14:00:00Z", "sms": 132,
                 "sm_unit": 2, "sm_least": 8, "spatial": {"verdict": "works", "evidence": "as a test says"}, **more}
        (self.dir / "sim").mkdir(exist_ok=True)
        (self.dir / "sim" / "selftest.json").write_text(json.dumps({"schema": 1, "gpus": [entry]}))

    def daemon(self, config="", tenants="", mps=MPS):
        self.until(self.lock_is_free, "nobody holds the lock")
        d = super().daemon(mps + config + tenants)
        self.until(lambda: self.status()["daemon"] == "answers", "it answers")  # there is a socket before somebody listens on it
        return d

    def lock_is_free(self):
        """A command that a killed daemon had just forked holds its lock until it is another program."""
        try:
            with open(self.dir / "daemon.lock") as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False

    def reload(self, daemon, config, what):
        self.config.write_text(config)
        daemon.send_signal(signal.SIGHUP)
        self.until(what, "the new configuration is in force")

    @staticmethod
    def tenant(name, compute="25%", mode="auto", group="g"):
        return f"[[tenant]]\nname = '{name}'\nmemory = '10GiB'\ncompute = '{compute}'\nmode = '{mode}'\nmps_group = '{group}'\n"

    def of(self, name):
        return next((t for t in self.status()["tenants"] if t["name"] == name), None)

    def groups(self):
        return {g["group"]: g for g in self.status()["mps_groups"]}

    def serving(self, group="g"):
        self.until(lambda: self.groups().get(group, {}).get("state") == "serving", f"MPS serves {group}")

    def commands(self, group="g"):
        try:
            return (self.home_of(group) / "commands").read_text().splitlines()
        except OSError:
            return []

    def pid_of(self, what, group="g"):
        return int((self.home_of(group) / "pipe" / what).read_text())

    def events(self, kind):
        r = self.ask("events", "--json")
        return [e for e in map(json.loads, r.stdout.splitlines()) if e["kind"] == kind]

    def told(self, kind, part=""):
        return self.until(lambda: [e for e in self.events(kind) if part in e["text"]], f"event {kind} {part}")[0]

    def sms(self, tenant, *percentage, env=None, run=()):
        """(multiprocessors, percentage, pipe directory) that a process of the tenant sees."""
        r = subprocess.run([BULKHEAD, "run", "-q", *run, "--tenant", tenant, "--", sys.executable, "-c", SMS, *percentage], text=True,
                           env={**self.env, **(env or {})}, timeout=60, capture_output=True, stdin=subprocess.DEVNULL)
        self.assertEqual(r.returncode, 0, r.stderr)
        words = r.stdout.split(" ")
        return int(words[0]), words[1], words[2].strip()

    def worker_of(self, tenant):
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--tenant", tenant, "--", BULKHEAD, "__demo-worker"], env=self.env, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        said = p.stdout.readline().split()
        self.assertEqual(said[:1], ["ready"], said)
        p.worker_pid = int(said[1])
        return p

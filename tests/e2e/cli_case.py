"""What the command line's tests share: a fresh directory each, the build tree's programs, one assertion style.

A test file is run as `python3 cli_x.py BUILD_DIR`; it exits 0 if every test passed. Waiting is on conditions, with a
watchdog that only ends a test that hangs.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else pathlib.Path("build/release").resolve()
BULKHEAD = str(BUILD / "bin" / "bulkhead")
WATCHDOG_S = 60
GIB = 1 << 30
# The program's own environment must not leak into a test.
DROPPED = ("BULKHEAD_", "CUDA_", "LD_PRELOAD", "LD_LIBRARY_PATH", "XDG_")


class Case(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory(prefix="bulkhead-e2e-")
        self.addCleanup(self.home.cleanup)
        self.dir = pathlib.Path(self.home.name) / "d"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
        self.env.update(BULKHEAD_DIR=str(self.dir), HOME=self.home.name, BULKHEAD_SIM="h200")

    def call(self, *words, env=None, **more):
        """Runs `bulkhead WORDS` to its end."""
        return subprocess.run([BULKHEAD, *words], env={**self.env, **(env or {})}, text=True, timeout=WATCHDOG_S,
                              capture_output=True, stdin=subprocess.DEVNULL, **more)

    def run_it(self, *words, env=None, **more):
        """`bulkhead run -q --no-daemon WORDS`."""
        return self.call("run", "-q", "--no-daemon", *words, env=env, **more)

    def start(self, *words, env=None, **more):
        """`bulkhead run`, not waited for; ended with the test if it is still there."""
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--no-daemon", *words], env={**self.env, **(env or {})}, text=True,
                             stdout=subprocess.PIPE, stdin=subprocess.PIPE, **more)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        return p

    def status(self):
        r = self.call("status", "--json")
        return json.loads(r.stdout)

    def worker(self, *words):
        """A driver-API program under a quota, with its context made. Speak to it by tell()."""
        p = self.start(*words, "--", BULKHEAD, "__demo-worker")
        said = p.stdout.readline().split()
        self.assertEqual(said[:1], ["ready"], said)
        p.worker_pid = int(said[1])
        return p

    def tell(self, worker, order):
        worker.stdin.write(order + "\n")
        worker.stdin.flush()
        return worker.stdout.readline().split()

    def until(self, condition, what):
        """Waits for a condition; fails only after the watchdog's time."""
        end = time.monotonic() + WATCHDOG_S
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.01)
        self.fail("never: " + what)

    def one_line(self, text):
        """One clear line of ours on stderr, and nothing else."""
        lines = text.splitlines()
        self.assertEqual(len(lines), 1, text)
        self.assertTrue(lines[0].startswith("bulkhead: "), text)
        return lines[0]


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=1)

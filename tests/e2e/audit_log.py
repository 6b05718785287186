"""The daemon's real log in a test: what it holds, what the verifier says of it, and faults of its file system."""
import json
import mmap
import os
import pathlib
import struct
import subprocess
import sys
import time

from audit_lanes import CLIENT, Entry, Lanes, SinkNode
from cli_case import BUILD, BULKHEAD

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import until  # noqa: E402

DAEMON = BUILD / "bin" / "bulkheadd"


def seldom(condition, what):
    """until(), for a condition that costs a process each time."""
    def one():
        time.sleep(0.1)
        return condition()
    return condition() or until(one, what)


FAULTS = BUILD / "tests" / "libfault_files.so"
NONE, FSYNC, NO_ROOM, READ_ONLY = range(4)  # of tests/e2e/fault_files.c


class Segments:
    """What the segments hold, in order; packed ones are not read. Reads what has come since it was asked last."""

    def __init__(self, directory):
        self.directory, self.found, self.read, self.life = pathlib.Path(directory, "segment"), [], {}, None

    def leaves(self, life):
        """`life`: of the daemon; another one may have cut what was half written."""
        if life != self.life:
            self.found, self.read, self.life = [], {}, life
        for path in sorted(self.directory.glob("*.data")):
            with path.open("rb") as f:
                f.seek(self.read.get(path, 0))
                self.read[path] = self.read.get(path, 0) + self.take(f.read())
        return self.found

    def take(self, data):
        at = 0
        while at + 2 <= len(data):
            (size,) = struct.unpack_from(">H", data, at)
            if at + 2 + size > len(data):
                break
            leaf = data[at + 2:at + 2 + size]
            at += 2 + size
            if leaf[0] == 0x1F:
                self.found.append(json.loads(leaf[1:]))
                continue
            first, op, verdict, reason, session, grant, low, high, lane, utc, source, destination, blow, bhigh = struct.unpack_from(
                "<BBBBIIIHHQQQIH", leaf)
            self.found.append(Entry(first & 15, op, verdict, reason, session, grant, high << 32 | low, lane, utc, source, destination,
                                    bhigh << 32 | blow))
        return at


class LogNode(SinkNode):
    """A bulkheadd with its real log. `faults`: its files below audit/ obey that object."""
    daemon, faults = DAEMON, None

    def start(self):
        env = {**self.env, **(self.faults.env if self.faults else {})}
        words = [self.daemon, "--config", str(self.config), "--sim", self.env["BULKHEAD_SIM"], "--no-sight"]
        self.process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.starts += 1
        until(lambda: self.answers() or self.process.poll() is not None, "control.sock answers")
        if self.process.poll() is not None:
            raise RuntimeError(f"bulkheadd ended with {self.process.returncode}")


class Faults:
    """One byte, shared with the daemon's preloaded library."""

    def __init__(self, path):
        path.write_bytes(b"\0" * 16)
        with path.open("r+b") as f:
            self.words = mmap.mmap(f.fileno(), 16)
        self.env = {"LD_PRELOAD": str(FAULTS), "FAULT_FILES": str(path)}

    def set(self, which):
        self.words[0] = which

    def met(self):
        """How many calls have failed so far."""
        return struct.unpack_from("<Q", self.words, 8)[0]


class LogCase(Lanes):
    """audit_lanes' clients and counting, over the real log."""
    audit = 'pack = false'
    __unittest_skip__ = not (DAEMON.exists() and CLIENT.exists())  # not audit_lanes' reasons
    __unittest_skip_why__ = "not built"

    def setUp(self):
        super(Lanes, self).setUp()
        self.node = LogNode(BULKHEAD, self.env)
        self.log = self.dir / "state" / "audit"
        self.segments = Segments(self.log)
        self.clients = []
        self.addCleanup(self.stop)
        self.prepare()
        self.node.start()

    def prepare(self):
        self.configure()

    def configure(self, audit="observe", more="deadline_ms = 60000", keep=None):
        keep = self.audit if keep is None else keep
        self.node.config.write_text(f'[audit]\n{more}\n{keep}\n[[tenant]]\nname = "t"\nmemory = "10GiB"\naudit = "{audit}"\n')

    def leaves(self):
        return self.segments.leaves(self.node.starts)

    def verify(self, *more, policy=None):
        """(exit code, what it said)"""
        r = subprocess.run([BULKHEAD, "audit", "verify", str(self.log), "--key", str(policy or self.log / "host.pub"), *more],
                           env=self.env, capture_output=True, text=True, timeout=120)
        return r.returncode, r.stdout + r.stderr

    def intact(self, **named):
        code, said = self.verify(**named)
        self.assertEqual(code, 0, said)

    def stats(self):
        return json.loads(subprocess.run([BULKHEAD, "audit", "stats", str(self.log), "--json"], env=self.env, text=True,
                                         capture_output=True, timeout=60, check=True).stdout)

    def events(self, kind):
        return [e for e in map(json.loads, self.call("events", "--json").stdout.splitlines()) if e["kind"] == kind]


# unittest finds the tests of what is imported: those of audit_lanes are not this file's
for name in [n for n in dir(Lanes) if n.startswith("test_")]:
    setattr(LogCase, name, None)

"""Entries on their way from a tenant's threads to the daemon's sink, with everybody dying: each entry that a producer was told is
recorded arrives exactly once, whoever is killed."""
import collections
import json
import os
import pathlib
import select
import signal
import struct
import subprocess
import sys
import time
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, until  # noqa: E402

DAEMON = BUILD / "tests" / "bulkheadd_file_sink"
CLIENT = BUILD / "tests" / "audit_client"
SHARED = 16
Entry = collections.namedtuple("Entry", "kind op verdict reason session grant sequence lane utc source destination bytes")


def leaves(path):
    """What the sink holds: entries and records, in order."""
    data = path.read_bytes() if path.exists() else b""
    at, out = 0, []
    while at + 2 <= len(data):
        (size,) = struct.unpack_from("<H", data, at)
        leaf = data[at + 2:at + 2 + size]
        at += 2 + size
        if len(leaf) < size:
            break
        if leaf[0] == 0x1F:
            out.append(json.loads(leaf[1:]))
            continue
        first, op, verdict, reason, session, grant, low, high, lane, utc, source, destination, blow, bhigh = struct.unpack_from(
            "<BBBBIIIHHQQQIH", leaf)
        out.append(Entry(first & 15, op, verdict, reason, session, grant, high << 32 | low, lane, utc, source, destination,
                         bhigh << 32 | blow))
    return out


class SinkNode(Node):
    """A bulkheadd whose audit log is a plain file."""

    def start(self):
        self.process = subprocess.Popen([DAEMON, "--config", str(self.config), "--sim", self.env["BULKHEAD_SIM"], "--no-sight"],
                                        env=self.env, stdin=subprocess.DEVNULL)
        self.starts += 1
        until(lambda: self.answers() or self.process.poll() is not None, "control.sock answers")
        if self.process.poll() is not None:
            raise RuntimeError(f"bulkheadd ended with {self.process.returncode}")

    def keeper(self):
        """The pids of this directory's keepers."""
        out = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (proc / "cmdline").read_bytes().split(b"\0")
                env = (proc / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--keeper" in words and f"BULKHEAD_DIR={self.dir}".encode() in env:
                out.append(int(proc.name))
        return out


@unittest.skipUnless(DAEMON.exists() and CLIENT.exists(), "not built")
class Lanes(Case):
    def setUp(self):
        super().setUp()
        self.node = SinkNode(BULKHEAD, self.env)
        self.configure()
        self.clients = []
        self.sink = self.dir / "state" / "audit" / "entries"
        self.addCleanup(self.stop)
        self.node.start()

    def configure(self, audit="observe", more="deadline_ms = 60000"):
        self.node.config.write_text(f'[audit]\n{more}\n[[tenant]]\nname = "t"\nmemory = "10GiB"\naudit = "{audit}"\n')

    def stop(self):
        for p in self.clients:
            p.kill()
            p.wait()
            p.stdout.close()
            if not p.stdin.closed:
                p.stdin.close()
        code = self.node.stop() if self.node.process and self.node.process.poll() is None else 0
        for pid in self.node.keeper():
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(code, 0)

    def client(self, threads, entries, *words, **variables):
        rows = pathlib.Path(self.home.name) / f"rows{len(self.clients)}"
        env = {**self.env, "BULKHEAD_TENANT": "t", "LD_LIBRARY_PATH": str(BUILD / "sim"), **variables}
        p = subprocess.Popen([CLIENT, str(rows), str(threads), str(entries), *words], env=env, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        p.rows, p.init = rows, int(p.stdout.readline().split()[1])
        self.clients.append(p)
        return p

    def rows(self, p):
        """(pid, recorded, refused) of each thread that began."""
        child = p.rows.with_name(p.rows.name + ".child")
        data = p.rows.read_bytes() + (child.read_bytes() if child.exists() else b"")
        rows = [struct.unpack_from("<QQQ", data, i) for i in range(0, len(data), 24)]
        return [r for r in rows if r[0] != 0]

    def leaves(self):
        return leaves(self.sink)

    def entries(self):
        return [leaf for leaf in self.leaves() if isinstance(leaf, Entry)]

    def records(self, kind):
        return [leaf for leaf in self.leaves() if isinstance(leaf, dict) and leaf["record"] == kind]

    def finish(self, p):
        p.stdout.readline()
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)

    def ended(self, sessions):
        return lambda: {r["serial"] for r in self.records("session_end")} >= set(sessions)

    def check(self, clients):
        """Exactly once, in order, and at least what each thread was told; the end record says what there is."""
        sessions = {r["serial"]: r for r in self.records("session")}
        self.assertEqual(len(sessions), len(self.records("session")), "a session's record is there once")
        until(self.ended(sessions), "the end of each session")
        found = self.leaves()
        told = set()
        lanes, numbers = collections.defaultdict(int), collections.Counter()
        for leaf in found:
            if isinstance(leaf, dict):
                told.add((leaf["record"], leaf.get("serial")))
                continue
            self.assertIn(("session", leaf.session), told, "an entry before its session's record")
            key = leaf.session, leaf.lane
            self.assertEqual(leaf.sequence, lanes[key], key)
            lanes[key] += 1
            if leaf.kind == 1 and leaf.op == 1:
                self.assertEqual(leaf.destination, sessions[leaf.session]["pid"])
                numbers[leaf.session, leaf.source] += 1
        self.assertEqual(set(numbers.values()), {1}, "an entry is there twice")
        for record in self.records("session_end"):
            for lane in record["lanes"]:
                self.assertEqual(lanes[record["serial"], lane["lane"]], lane["next"])
        per_thread = collections.Counter((sessions[session]["pid"], source >> 32) for session, source in numbers)
        said, spare = collections.Counter(), collections.Counter()  # of all together: a pid may have been given twice
        for p in clients:
            for i, (pid, recorded, refused) in enumerate(self.rows(p)):
                self.assertEqual(refused, 0)
                said[pid, i % p.threads] += recorded
                spare[pid, i % p.threads] += p.killed  # one may stand in the lane that its thread did not live to count
        for key, recorded in said.items():
            self.assertLessEqual(recorded, per_thread[key], key)
            self.assertLessEqual(per_thread[key], recorded + spare[key], key)
        return sum(per_thread.values())

    def begin(self, threads, entries, *words):
        p = self.client(threads, entries, *words)
        self.assertEqual(p.init, 0)
        p.threads, p.killed = threads, False
        return p

    def test_an_entry_says_when_it_was_written(self):
        """UTC by the offset that a thread keeps is the system's own, and never goes back in a lane."""
        began = time.time_ns()
        self.finish(self.begin(1, 3_000))
        until(lambda: self.records("session_end"), "the end of the session")
        ended = time.time_ns()
        times = [e.utc for e in self.entries() if e.lane == 0]
        self.assertGreaterEqual(len(times), 3_000)
        self.assertEqual(times, sorted(times))
        self.assertGreaterEqual(times[0], began - 1_000)  # the offset is taken to the nanosecond
        self.assertLessEqual(times[-1], ended + 1_000)

    def test_nothing_is_lost_or_doubled_when_daemon_and_tenants_are_killed(self):
        clients = [self.begin(3, 100_000), self.begin(3, 100_000), self.begin(2, 80_000, "fork")]
        for life in range(6):
            before = self.sink.stat().st_size if self.sink.exists() else 0
            until(lambda: (self.sink.exists() and self.sink.stat().st_size > before + 100_000)
                  or all(select.select([p.stdout], [], [], 0)[0] for p in clients), "entries in the file, or the end of all")
            self.node.kill()
            if life == 3:
                clients[1].killed = True
                clients[1].kill()
                clients[1].wait()
            self.node.start()
        for p in clients:
            if not p.killed:
                self.finish(p)
        total = self.check(clients)
        self.assertGreater(total, 100_000)  # a thread whose first request met no daemon observes without a lane
        # nothing is left to keep: the keeper goes with the daemon
        self.assertEqual(self.node.stop(), 0)
        until(lambda: not self.node.keeper(), "the keeper's end")

    def test_more_threads_than_lanes_share_one(self):
        p = self.begin(20, 5_000)
        self.finish(p)
        self.check([p])
        self.assertEqual({e.lane for e in self.entries()} - set(range(SHARED + 1)), set())
        self.assertEqual(len(self.records("session")), 1)

    def test_another_program_in_the_same_process_is_another_session(self):
        p = self.begin(2, 3_000, "exec")
        self.finish(p)
        self.assertEqual(self.check([p]), 2 * 2 * 3_000)
        whys = {r["why"] for r in self.records("session_end")}
        self.assertEqual(whys, {"its process started another program", "its process has ended"})

    def test_what_finds_no_room_is_counted_to_the_last(self):
        self.assertEqual(self.node.stop(), 0)
        self.configure(more='deadline_ms = 1\nfull = "count"')
        self.node.start()
        q = self.client(1, 300_000, "stopped")
        q.threads, q.killed = 1, False
        self.assertEqual(q.stdout.readline(), "ready\n")
        self.node.process.send_signal(signal.SIGSTOP)
        q.stdin.write("go\n")
        q.stdin.flush()
        q.stdout.readline()
        self.node.process.send_signal(signal.SIGCONT)
        q.stdin.close()
        self.assertEqual(q.wait(60), 0)
        there = self.check([q])
        named = sum(e.bytes for e in self.entries() if e.kind == 6) + sum(r["count"] for r in self.records("gap"))
        self.assertGreater(named, 0)
        self.assertEqual(there + named, 300_000)

    def test_a_tenant_cannot_lower_its_mode(self):
        p = self.client(1, 10, BULKHEAD_AUDIT="off")
        p.threads, p.killed = 1, False
        self.finish(p)
        self.assertEqual(self.check([p]), 10)

    def test_without_its_daemon_a_process_under_enforce_does_not_start(self):
        self.node.kill()
        self.assertEqual(self.client(1, 1, BULKHEAD_AUDIT="enforce").init, 802)
        self.assertEqual(self.client(1, 1).init, 0)  # observed: it starts, and what it does is counted
        self.node.start()

    def test_run_says_why_a_command_does_not_start_under_enforce(self):
        words = ["run", "-q", "--tenant", "t", "--audit", "enforce", "--", "true"]
        self.assertEqual(self.call(*words).returncode, 0)
        self.node.kill()
        r = self.call(*words)
        self.assertEqual(r.returncode, 125, r.stderr)
        self.assertIn("audit = enforce", r.stderr)
        self.assertEqual(self.call("run", "-q", "--tenant", "t", "--", "true").returncode, 0)
        self.node.start()

    def test_without_a_grant_enforce_refuses_and_says_so(self):
        p = self.client(2, 100, BULKHEAD_AUDIT="enforce")
        self.assertEqual(p.init, 0)
        p.stdout.readline()
        until(lambda: len([e for e in self.entries() if e.kind == 1]) == 200, "200 entries")
        self.assertEqual([r[1:] for r in self.rows(p)], [(100, 100)] * 2)
        for e in self.entries():
            self.assertEqual((e.verdict >> 3 & 3, e.reason), (1, 1))  # denied, no grant

    def test_a_killed_keeper_is_replaced_at_the_next_lane(self):
        first = self.begin(1, 1000)
        until(lambda: len(self.entries()) >= 1000, "its entries")
        (keeper,) = self.node.keeper()
        os.kill(keeper, signal.SIGKILL)
        until(lambda: keeper not in self.node.keeper(), "its end")
        second = self.begin(1, 1000)
        second.stdout.readline()
        self.assertEqual(len(self.node.keeper()), 1)
        self.node.kill()
        self.node.start()  # both are known to it: nothing is doubled
        self.finish(first)
        second.stdin.close()
        second.wait(60)
        self.assertEqual(self.check([first, second]), 2000)


if __name__ == "__main__":
    main()

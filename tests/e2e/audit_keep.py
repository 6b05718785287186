"""The log beside its writer, under the running daemon: packed, cosigned, kept below its bytes; a full disk, a broken one, a read-only
one; and what the service manager keeps of it while no daemon lives."""
import array
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import unittest

from audit_log import DAEMON, FAULTS, FSYNC, NO_ROOM, NONE, READ_ONLY, Faults, LogCase, LogNode, seldom, until
from cli_case import BULKHEAD, main




class Witness:
    """`bulkhead audit witness`, which is killed with the test."""

    def __init__(self, case, name):
        self.socket = case.dir / name
        words = [BULKHEAD, "audit", "witness", "--state", str(case.dir / (name + ".state")), "--socket", str(self.socket), "--key",
                 str(case.log / "host.pub"), "--name", "test/" + name]
        self.process = subprocess.Popen(words, env=case.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        case.addCleanup(self.process.communicate)
        case.addCleanup(self.process.kill)
        self.key = self.process.stdout.readline().split()[-1]
        until(self.socket.exists, "its socket")


class Keep(LogCase):
    def busy(self, entries=8_000, threads=2):
        p = self.begin(threads, entries)
        self.finish(p)
        return p

    def test_packed_cosigned_and_kept_below_its_bytes(self):
        one, two = Witness(self, "one"), Witness(self, "two")
        self.assertEqual(self.node.stop(), 0)
        sockets = f'witnesses = ["{one.socket}", "{two.socket}"]\nwitness_s = 1\n'
        self.configure(keep='segment = "64KiB"\n' + sockets)
        two.process.send_signal(signal.SIGSTOP)  # away from the start: nothing waits for it
        self.node.start()
        self.busy()
        until(lambda: len(list(self.log.glob("segment/*.zst"))) >= 8, "packed segments")
        seldom(lambda: [e for e in self.events("store-failed") if "witness" in e["text"] and "two" in e["text"]], "its absence told")
        self.assertEqual(self.check_numbers(), 16_000)
        policy = self.dir / "policy"
        policy.write_text((self.log / "host.pub").read_text() + f"witness one {one.key}\nwitness two {two.key}\nquorum 1\n")
        seldom(lambda: self.verify(policy=policy)[0] == 0, "cosigned by one of two")
        policy.write_text(policy.read_text().replace("quorum 1", "quorum 2"))
        self.assertEqual(self.verify(policy=policy)[0], 1)
        two.process.send_signal(signal.SIGCONT)
        seldom(lambda: [e for e in self.events("store-recovered") if "two answers again" in e["text"]], "its return told")
        seldom(lambda: self.verify(policy=policy)[0] == 0, "cosigned by both")
        # and now it may keep a part only
        self.assertEqual(self.node.stop(), 0)
        self.configure(keep='segment = "64KiB"\nretain_size = "64KiB"\n' + sockets)
        self.node.start()
        seldom(lambda: [e for e in self.events("store-recovered") if "removed" in e["text"]], "what was removed, told")
        self.assertLessEqual(sum(f.stat().st_size for f in self.log.glob("segment/*")), 256 << 10)
        self.intact(policy=policy)
        self.assertEqual(self.node.stop(), 0)
        self.intact(policy=policy)

    def check_numbers(self):
        """Entries of the clients in the log, packed segments included."""
        seldom(lambda: '"session_end"' in self.exported(), "the end of the sessions")
        return self.exported().count('"cuMemcpy"')

    def exported(self):
        return subprocess.run([BULKHEAD, "audit", "export", str(self.log)], env=self.env, capture_output=True, text=True,
                              timeout=120).stdout.replace(" ", "")


@unittest.skipUnless(FAULTS.exists(), "not built")
class Broken(LogCase):
    def prepare(self):
        self.faults = self.node.faults = Faults(self.dir.parent / "faults")
        self.configure()

    def wait_told(self, text, kind="store-failed"):
        seldom(lambda: [e for e in self.events(kind) if text in e["text"]], f"{kind}: {text}")

    def with_a_lane(self, fault):
        """A process that has its lane; it begins with its entries, more than that holds, when the disk has the fault."""
        p = self.client(1, 150_000, "stopped")
        p.threads, p.killed = 1, False
        self.assertEqual(p.stdout.readline(), "ready\n")
        until(lambda: self.entries(), "its first entry")
        self.faults.set(fault)
        p.stdin.write("go\n")
        p.stdin.flush()
        return p

    def test_a_full_disk_makes_wait_and_loses_nothing(self):
        p = self.with_a_lane(NO_ROOM)
        self.wait_told("no room")
        before = len(self.leaves())
        self.assertFalse(select.select([p.stdout], [], [], 0)[0])  # it waits: 131,072 a lane at most
        self.faults.set(NONE)
        self.wait_told("has room again", "store-recovered")
        self.finish(p)
        self.assertEqual(self.check([p]), 150_000)
        self.assertGreater(len(self.leaves()), before)
        self.assertEqual(self.node.stop(), 0)
        self.intact()

    def test_a_full_disk_denies_where_that_is_asked_for(self):
        self.assertEqual(self.node.stop(), 0)
        self.configure(audit="enforce", more='full = "deny"')
        self.node.start()
        self.faults.set(NO_ROOM)
        p = self.client(1, 140_000, BULKHEAD_AUDIT="enforce")
        self.assertEqual(p.init, 0)
        p.stdout.readline()
        ((pid, recorded, refused),) = self.rows(p)
        self.assertLess(recorded, 131_072 + 1)  # what its lane holds: each refused for want of a grant, and recorded
        self.assertGreater(recorded, 100_000)
        self.assertEqual(refused, 140_000)
        self.faults.set(NONE)
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        (session,) = until(lambda: self.records("session"), "its session")
        until(self.ended([session["serial"]]), "its end")
        self.assertEqual(len([e for e in self.entries() if e.kind == 1 and e.op == 1]), recorded)
        self.assertEqual(self.node.stop(), 0)
        self.intact()

    def test_after_a_failed_fsync_nothing_is_written_and_the_next_daemon_has_it_all(self):
        self.broken(FSYNC, "fsync of the audit log")

    def test_on_a_read_only_file_system_likewise(self):
        self.broken(READ_ONLY, "write to the audit log")

    def broken(self, fault, text):
        p = self.with_a_lane(fault)
        self.wait_told(text)
        self.assertGreater(self.faults.met(), 0)
        self.wait_told("is not written any more")
        # nobody begins under enforce now, and `run` says why
        r = self.call("run", "-q", "--tenant", "t", "--audit", "enforce", "--", "true")
        self.assertEqual(r.returncode, 125)
        self.assertIn("the log is not written", r.stderr)
        self.faults.set(NONE)
        self.assertFalse(select.select([p.stdout], [], [], 0)[0])
        self.node.stop()  # a restart is the way out: what fsync left behind is not known
        self.node.start()
        self.finish(p)
        self.assertEqual(self.check([p]), 150_000)
        self.assertEqual(self.node.stop(), 0)
        self.intact()


class Manager:
    """The part of a service manager that keeps descriptors: what comes by $NOTIFY_SOCKET is handed back at the next start."""

    def __init__(self, path):
        self.path, self.kept, self.said, self.stop = str(path), {}, [], False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while True:
            data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16))
            fds = array.array("i")
            for level, kind, body in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(body)
            words = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
            with self.changed:
                if words.get("FDSTORE") == "1":
                    self.kept.setdefault(words["FDNAME"], []).extend(fds)
                elif "FDSTOREREMOVE" in words:
                    for fd in self.kept.pop(words["FDNAME"], []):
                        os.close(fd)
                elif data == b"end":
                    return
                self.said.append(words)

    def end(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"end", self.path)
        self.thread.join()
        self.socket.close()
        for fds in self.kept.values():
            for fd in fds:
                os.close(fd)

    def start(self, words, env):
        """The program, with the descriptors from 3 on, as sd_listen_fds_with_names(3) finds them."""
        with self.changed:
            pairs = [(name, os.dup(fd)) for name, fds in self.kept.items() for fd in fds]
        env = {**env, "NOTIFY_SOCKET": self.path, "FDSTORE": "65536"}
        if pairs:
            env.update(LISTEN_FDS=str(len(pairs)), LISTEN_FDNAMES=":".join(name for name, _ in pairs))

        def hand_over():  # in the child: first all out of the way, then each to its place
            high = [os.dup2(fd, 200 + i) for i, (_, fd) in enumerate(pairs)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i, inheritable=True)
                os.close(fd)

        run = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *map(str, words)]
        p = subprocess.Popen(run, env=env, stdin=subprocess.DEVNULL, preexec_fn=hand_over, close_fds=False)
        for _, fd in pairs:
            os.close(fd)
        return p, [name for name, _ in pairs]


class ManagedNode(LogNode):
    manager, handed = None, []

    def start(self):
        words = [DAEMON, "--config", str(self.config), "--sim", self.env["BULKHEAD_SIM"], "--no-sight"]
        self.process, self.handed = self.manager.start(words, self.env)
        self.starts += 1
        until(lambda: self.answers() or self.process.poll() is not None, "control.sock answers")
        if self.process.poll() is not None:
            raise RuntimeError(f"bulkheadd ended with {self.process.returncode}")


class Store(LogCase):
    def prepare(self):
        self.node = ManagedNode(BULKHEAD, self.env)
        self.node.manager = Manager(self.dir.parent / "notify")
        self.addCleanup(self.node.manager.end)
        self.configure()

    def test_the_service_manager_keeps_the_lanes_of_a_killed_daemon(self):
        manager = self.node.manager
        p, q = self.begin(3, 20_000), self.begin(1, 20_000)
        self.assertEqual(self.node.keeper(), [])
        for _ in range(3):
            before = len(self.entries())
            until(lambda: len(self.entries()) > before or all(select.select([c.stdout], [], [], 0)[0] for c in (p, q)), "entries")
            self.node.kill()
            self.node.start()
            self.assertIn("bell", self.node.handed)
            self.assertIn("intent", self.node.handed)
        self.assertTrue([n for n in self.node.handed if n.startswith("l.")])
        for c in (p, q):
            self.finish(c)
        self.assertEqual(self.check([p, q]), 80_000)
        self.assertIn({"READY": "1"}, manager.said)
        until(lambda: set(manager.kept) == {"bell", "intent"}, "the lanes given back")
        self.assertEqual(self.node.stop(), 0)
        until(lambda: not manager.kept, "all given back")
        self.assertEqual(self.node.keeper(), [])
        self.intact()


if __name__ == "__main__":
    main()

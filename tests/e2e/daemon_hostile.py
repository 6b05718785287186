"""What a tenant or a stranger may try against the daemon, with real processes on the simulated driver: a slot that names another's
process, and (as root only) a stranger where bypasses are killed. Who did nothing of it never pays."""
import json
import mmap
import os
import pathlib
import signal
import struct
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import HERE, Node, ask, ready, until  # noqa: E402

SLOTS, SLOT_BYTES = 8192, 256  # formats/region.md; fields of a slot: pid at 8, start at 16
SLOT_COUNT = 64  # more than a test has processes
NOBODY = 65534
# On a GPU around the library, as the user it is told to be.
STRANGER = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
from cuda_driver import Driver
cu = Driver()
cu.primary()
assert cu.alloc({GIB}) is not None
os.setresuid(*[int(sys.argv[1])] * 3)
print("ready", os.getpid(), flush=True)
sys.stdin.read()
"""


def start_ticks(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


class Hostile(Case):
    policy = ""

    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.node.config.write_text(self.policy)
        self.node.start()
        self.events = self.node.events()
        self.addCleanup(self.stop)

    def stop(self):
        self.events.end()
        self.assertIsNone(self.node.process.poll(), "the daemon had ended by itself")
        self.assertEqual(self.node.stop(), 0)

    def rounds(self, count):
        first = self.node.metric("bulkhead_sentinel_rounds_total") or 0
        until(lambda: (self.node.metric("bulkhead_sentinel_rounds_total") or 0) >= first + count, "more rounds")

    def member(self, tenant, size):
        p = self.node.run("serve", tenant=tenant, memory="8GiB")
        pid, _ = ready(p)
        self.assertEqual(ask(p, f"take {size}"), 1)
        self.assertIsNotNone(self.events.wait(["process-joined"], pid))
        return pid

    def stranger(self, uid):
        env = {**self.env, "LD_LIBRARY_PATH": str(BUILD / "sim")}
        p = subprocess.Popen([sys.executable, "-c", STRANGER, str(uid)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        word, pid = p.stdout.readline().split()
        self.assertEqual((word, int(pid)), ("ready", p.pid))
        return p


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Forged(Hostile):
    def forge(self, tenant, of, pid):
        """In the tenant's own region, the slot of `of` says that it is `pid`'s."""
        with open(self.dir / "tenants" / tenant / "region", "r+b") as file, mmap.mmap(file.fileno(), 0) as region:
            for at in range(SLOTS, SLOTS + SLOT_COUNT * SLOT_BYTES, SLOT_BYTES):
                if struct.unpack_from("<I", region, at + 8)[0] == of:
                    struct.pack_into("<I", region, at + 8, pid)
                    struct.pack_into("<Q", region, at + 16, start_ticks(pid))
                    return
        self.fail("its slot is not there")

    def told(self):
        return [json.loads(line) for line in self.node.call("events", "--json").stdout.splitlines()]

    def restart(self):
        """The daemon reads all slots again."""
        self.events.end()
        self.assertTrue(self.node.kill())
        self.node.start()
        self.events = self.node.events()

    def test_a_slot_that_names_another_tenants_process_is_its_writers(self):
        victim = self.member("b", 2 * GIB)
        forger = self.member("a", GIB)
        self.forge("a", forger, victim)
        before = max(e["id"] for e in self.told())
        self.restart()
        since = lambda *kinds: [(e["tenant"], e["pid"]) for e in self.told() if e["id"] > before and e["kind"] in kinds]
        until(lambda: since("process-joined"), "the victim is taken over")
        self.rounds(3)
        self.assertEqual(since("process-joined"), [("b", victim)])  # the forger's slot is watched for nobody
        self.assertEqual([s for s in self.node.strays(victim)], [])
        os.kill(victim, signal.SIGKILL)
        until(lambda: self.node.used("b") == 0, "the victim's memory is back")
        self.assertGreaterEqual(self.node.used("a"), GIB)  # its death frees nothing of the forger's
        self.assertEqual(since("process-reaped", "process-ended"), [("b", victim)])
        os.kill(forger, signal.SIGKILL)
        until(lambda: self.node.used("a") == 0, "the forger's memory is back, by its own death")


ROOT = os.geteuid() == 0
if not ROOT:
    print("SKIPPED, NOT SHOWN: only root's daemon may kill; run this as root", file=sys.stderr)


@unittest.skipUnless(ROOT and (BUILD / "bin" / "bulkheadd").exists(), "only root's daemon may kill")
class Killing(Hostile):
    policy = '[policy]\nbypass = "kill"\n'

    def test_a_stranger_is_killed_and_told_of_and_nobody_else_is(self):
        member = self.member("a", GIB)
        roots = self.stranger(0)
        p = self.stranger(NOBODY)
        event = self.events.wait(["bypass-killed"], p.pid)
        self.assertIsNotNone(event, "it was never killed")
        self.assertIn("was killed", event["text"])
        self.assertEqual((event["uid"], event["severity"]), (NOBODY, "alarm"))
        self.assertEqual(p.wait(60), -signal.SIGKILL)
        self.assertIsNotNone(self.events.wait(["bypass-found"], roots.pid))  # root's are named, and live
        self.rounds(5)
        self.assertIsNone(roots.poll())
        self.assertGreater(start_ticks(member), 0)  # it lives
        self.assertEqual([e["pid"] for e in self.events.of(["bypass-killed"])], [p.pid])
        until(lambda: self.node.metric("bulkhead_bypasses_killed_total") == 1, "it in the metrics")

    def reload(self, text):
        before = len(self.events.of(["config-loaded"]))
        self.node.config.write_text(text)
        self.node.process.send_signal(signal.SIGHUP)
        until(lambda: len(self.events.of(["config-loaded"])) > before, "it is loaded")

    def test_whom_the_policy_allows_is_left_alone(self):
        exe = os.path.realpath(sys.executable)
        self.reload(self.policy + f'bypass_allow = ["{exe}"]\n')
        p = self.stranger(NOBODY)
        self.rounds(5)
        self.assertIsNone(p.poll())
        self.assertEqual(self.events.of(["bypass-found", "bypass-killed"]), [])
        self.reload(self.policy)
        self.assertIsNotNone(self.events.wait(["bypass-killed"], p.pid))
        self.assertEqual(p.wait(60), -signal.SIGKILL)


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class NotKilling(Hostile):
    def test_without_the_policy_a_stranger_is_named_and_lives(self):
        p = self.stranger(NOBODY if ROOT else os.geteuid())
        self.assertIsNotNone(self.events.wait(["bypass-found"], p.pid))
        self.rounds(5)
        self.assertIsNone(p.poll())


if __name__ == "__main__":
    sys.exit(main())

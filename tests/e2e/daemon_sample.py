"""What the driver takes beyond the books, where no `run` lives that would tell the process: the daemon does, and `status` and NVML
agree. Real processes on the simulated driver."""
import os
import pathlib
import signal
import sys
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, ask, ready, until  # noqa: E402

MIB = 1 << 20
LATE = 200 * MIB
CLOSE = 2 * MIB
MAJOR = 8  # of the region's header


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Sampled(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env, sight=False)
        self.addCleanup(self.stop)

    def stop(self):
        self.assertIsNone(self.node.process.poll(), "the daemon had ended by itself")
        self.assertEqual(self.node.stop(), 0)

    def nvml_bytes(self, pid):
        p = self.node.bare("uses", str(pid))
        self.node.clients.remove(p)
        return int(p.communicate(timeout=60)[0])

    def books(self):
        t = self.node.status("t")
        return (0, 0) if t is None else (t["devices"][0]["used_bytes"], t["devices"][0]["other_bytes"])

    def agree(self, pid, at_least):
        """Both tell the same, and that much of it is `other`."""
        def same():
            used, other = self.books()
            return other >= at_least and abs(used - self.nvml_bytes(pid)) <= CLOSE
        until(same, "the books agree with NVML")

    def test_a_program_that_was_preloaded_by_hand(self):
        self.node.start()
        p = self.node.preloaded("serve")
        pid, _ = ready(p)
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        self.agree(pid, MIB)  # its context: nobody had measured one for this tenant
        _, before = self.books()
        self.assertEqual(ask(p, f"late {LATE}"), 0)
        self.agree(pid, before + LATE - CLOSE)
        self.assertEqual(self.node.status("t")["sampler_beat_s"], 0)  # a daemon answers no questions, so nobody waits for it
        self.assertEqual(self.node.strays(pid), [])
        p.communicate(timeout=60)
        until(lambda: self.books() == (0, 0), "it is gone")

    def test_a_program_whose_run_was_killed(self):
        self.node.start()
        p = self.node.run("serve")
        pid, _ = ready(p)
        until(lambda: (self.node.status("t") or {}).get("sampler_beat_s"), "a beat of `run`")
        self.agree(pid, MIB)
        _, before = self.books()
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
        self.addCleanup(p.stdin.close)  # the program's end, which lives on
        self.assertEqual(ask(p, f"late {LATE}"), 0)
        self.agree(pid, before + LATE - CLOSE)
        self.assertEqual(self.node.status("t")["sampler_beat_s"], 0)
        # and a `run` that comes is the sampler again
        q = self.node.run("serve", memory=None)
        ready(q)
        until(lambda: self.node.status("t")["sampler_beat_s"], "a beat of the next `run`")

    def test_a_faulty_tenants_process_is_no_bypass(self):
        self.node.start()
        events = self.node.events()
        self.addCleanup(events.end)
        p = self.node.run("serve")
        pid, _ = ready(p)
        self.assertIsNotNone(events.wait(["process-joined"], pid))
        with (self.dir / "tenants" / "t" / "region").open("r+b") as region:
            region.seek(MAJOR)
            region.write(b"\x63")
        self.assertEqual(events.wait(["tenant-faulty"])["tenant"], "t")
        stranger = self.node.bare("serve")  # it came after, so it was looked at as often at the most
        strange_pid, _ = ready(stranger)
        self.assertIsNotNone(events.wait(["bypass-found"], strange_pid, "gpu"))
        self.assertEqual((self.node.strays(pid), events.of(["bypass-found"], pid)), ([], []))
        self.assertIsNone(p.poll())
        self.assertEqual(ask(p, f"take {GIB}"), 1)  # its own books are as they were

    def test_a_program_that_was_there_before_the_daemon(self):
        p = self.node.preloaded("serve")
        pid, _ = ready(p)
        self.assertEqual(ask(p, f"late {LATE}"), 0)
        self.node.start()
        self.agree(pid, LATE)


if __name__ == "__main__":
    sys.exit(main())

"""The daemon and the library together, real processes on the simulated driver: who joins is seen, who dies is given back, what is
left after a storm in which the daemon dies as well, who goes around the library, limits that change under a running program."""
import pathlib
import random
import sys
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, ask, fills, lead_deaths, lead_storm, ready, until  # noqa: E402

MIB = 1 << 20
STORM_S = 8


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Live(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.node.start()
        self.addCleanup(self.stop)
        self.events = None

    def stop(self):
        if self.events:
            self.events.end()
        self.assertIsNone(self.node.process.poll(), "the daemon had ended by itself")
        self.assertEqual(self.node.stop(), 0)

    def follow(self):
        self.events = self.node.events()
        return self.events

    def test_a_process_that_joins_is_seen(self):
        events = self.follow()
        p = self.node.run("serve")
        pid, _ = ready(p)
        self.assertEqual(events.wait(["process-joined"], pid)["tenant"], "t")
        self.assertEqual([q["pid"] for q in self.node.status("t")["processes"]], [pid])
        until(lambda: (self.tenant_sample("bulkhead_tenant_processes") or 0) == 1, "it in the metrics")
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        until(lambda: (self.tenant_sample("bulkhead_tenant_memory_used_bytes") or 0) >= GIB, "its memory in the metrics")
        p.communicate(timeout=60)
        self.assertIsNotNone(events.wait(["process-ended", "process-reaped"], pid))
        until(lambda: self.tenant_sample("bulkhead_tenant_memory_used_bytes") == 0, "nothing in the metrics")

    def tenant_sample(self, family):
        """The one value of a family for tenant t."""
        found = [line for line in self.node.metrics().splitlines() if line.startswith(family + "{") and 'tenant="t"' in line]
        return float(found[0].rsplit(" ", 1)[1]) if len(found) == 1 else None

    def test_what_a_killed_process_held_is_granted_again_and_the_daemon_frees_it(self):
        records = lead_deaths(self.node, self.follow(), racing=4, quiet=3, size=6 * GIB)
        self.assertEqual(len(records), 7)
        for r in records:
            self.assertTrue(r["held"], r)
            self.assertIsNotNone(r["told"], r)
            if r["racing"]:
                self.assertIsNotNone(r["granted_ns"], r)
        # Nobody else wanted it: by its pidfd, not by the scan a second later (nor by `run`, which also looks now and then).
        freed = [r for r in records if not r["racing"] and r["told"]["text"].startswith("ended:")]
        self.assertTrue(freed, records)
        for r in freed:
            self.assertGreaterEqual(r["told"]["bytes"], 6 * GIB)
        until(lambda: (self.node.metric("bulkhead_reap_delay_seconds_count") or 0) >= len(freed), "their delays in the metrics")
        self.assertGreaterEqual(self.node.metric("bulkhead_reaped_memory_bytes_total"), 6 * GIB * len(freed))
        self.assertEqual(self.node.used(), 0)

    def test_nothing_is_left_after_a_storm_that_kills_the_daemon_too(self):
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"storm seed {seed}", file=sys.stderr)
        alone = fills(self.node, "alone", "10GiB")
        self.assertGreater(alone["taken_bytes"], 9 * GIB)
        said, by_us, by_itself = lead_storm(self.node, 100000, 8, STORM_S, seed, 2)
        self.assertGreater(said["kills"], 0)
        self.assertEqual((said["died_otherwise"], by_itself), (0, 0))
        self.assertGreater(by_us, 1)
        self.assertEqual(fills(self.node, "t", "10GiB"), alone)
        until(lambda: self.node.used() == 0, "the books are empty")
        self.assertEqual(self.node.status()["problems"], [])
        events = self.node.call("events", "--json").stdout
        for kind in ("tenant-faulty", "limit-tampered"):
            self.assertNotIn(f'"{kind}"', events)

    def test_a_process_around_the_library_is_found_and_named(self):
        events = self.follow()
        p = self.node.bare("serve")
        pid, _ = ready(p)
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        found = events.wait(["bypass-found"], pid, "gpu")
        self.assertEqual(found["severity"], "warning")
        self.assertIn(f"(pid {pid},", found["text"])
        until(lambda: any(s["kind"] == "unregistered" and s["bytes"] >= GIB for s in self.node.strays(pid)), "it in status")
        self.assertRegex(self.node.call("status").stdout, rf"bypass  {pid} python")
        until(lambda: (self.node.metric("bulkhead_bypasses_found_total") or 0) >= 1, "it in the metrics")
        p.communicate(timeout=60)
        self.assertIsNotNone(events.wait(["bypass-gone"], pid, "gpu"))
        until(lambda: not self.node.strays(pid), "it has gone from status")

    def test_a_process_of_a_tenant_is_no_stray(self):
        p = self.node.run("serve")
        pid, _ = ready(p)
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        rounds = self.node.metric("bulkhead_sentinel_rounds_total") or 0
        until(lambda: (self.node.metric("bulkhead_sentinel_rounds_total") or 0) >= rounds + 3, "three more rounds")
        self.assertEqual(self.node.strays(pid), [])

    def test_a_limit_stops_growth_and_gives_room_at_once(self):
        p = self.node.run("serve")
        ready(p)
        self.assertEqual(ask(p, f"take {8 * GIB}"), 1)
        down = self.node.call("set", "t", "--memory", "6GiB")
        self.assertEqual(down.returncode, 0, down.stderr)
        self.assertIn("cannot grow until it has given back", self.one_line(down.stderr))
        # D6: in the page before the answer, so the next request meets it; the same upwards
        self.assertEqual((ask(p, f"take {2 * MIB}"), ask(p, "total")), (0, 6 * GIB))
        self.assertIsNone(p.poll())
        self.assertGreaterEqual(self.node.used(), 8 * GIB)
        self.assertEqual(self.node.call("set", "t", "--memory", "12GiB").returncode, 0)
        self.assertEqual((ask(p, f"take {GIB}"), ask(p, "total")), (1, 12 * GIB))

    def test_a_limit_that_was_set_meets_a_program_that_outlived_its_daemon(self):
        p = self.node.run("serve")
        ready(p)
        self.assertTrue(self.node.kill())
        self.assertEqual(ask(p, f"take {GIB}"), 1)  # without any daemon
        self.node.start()
        self.assertEqual(self.node.call("set", "t", "--memory", "4GiB").returncode, 0)
        self.assertEqual(ask(p, "total"), 4 * GIB)
        self.assertEqual(ask(p, f"take {3 * GIB}"), 0)
        self.assertEqual(ask(p, f"take {2 * GIB}"), 1)


if __name__ == "__main__":
    sys.exit(main())

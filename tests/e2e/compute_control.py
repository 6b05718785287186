"""Shares of a GPU's time as people set and see them: options, bad input, admission, live change, adoption, sight. What the
library writes into the sums is written here by hand where a test needs it: the figures are made up, their way is not."""
import json
import mmap
import os
import struct
import subprocess
import unittest

from cli_case import BULKHEAD, GIB, Case, main
from daemon_control import OPEN_TO_USERS, ROOT, DaemonCase

COMPUTE = 1843200  # docs/formats/region.md
RULES, SUMS = COMPUTE + 64, COMPUTE + 128
NO_LENDING = "bulkhead: without a daemon nobody lends idle GPU time: a share with + is held to what stands before it\n"


class Region:
    """A tenant's region as one of its own processes may write it."""

    def __init__(self, case, name):
        file = open(case.dir / "tenants" / name / "region", "r+b")
        self.map = mmap.mmap(file.fileno(), 0)
        case.addCleanup(file.close)
        case.addCleanup(self.map.close)

    def rules(self):
        """floor, ceiling, burst, window, dampening, flags, rules"""
        return struct.unpack_from("<7I", self.map, RULES)

    def set_floor(self, x100):
        struct.pack_into("<I", self.map, RULES, x100)

    def set_sums(self, used, borrowed=0, forgiven=0, held=0, launches=0):
        struct.pack_into("<5Q", self.map, SUMS, used, borrowed, forgiven, held, launches)


class Alone(Case):
    def test_who_asks_for_idle_time_is_told_that_nobody_lends_it_without_a_daemon(self):
        for share, told in (("25%+", True), ("25%", False)):
            stderr = self.call("run", "--no-daemon", "--memory", "1GiB", "--compute", share, "--", "/bin/true").stderr
            self.assertEqual(NO_LENDING in stderr, told, stderr)

    def make(self, name, *words, env=None):
        return self.run_it("--tenant", name, "--memory", "1GiB", *words, "--", "/bin/true", env=env)

    def good(self, result):
        self.assertEqual((result.returncode, result.stderr.replace(NO_LENDING, "")), (0, ""))

    def time_of(self, name):
        tenant, = (t for t in self.status()["tenants"] if t["name"] == name)
        return tenant["devices"][0]["time"]

    def refused(self, result, code, *parts):
        self.assertEqual(result.returncode, code, result.stderr)
        for part in parts:
            self.assertIn(part, self.one_line(result.stderr))

    def test_a_share_reaches_the_region_and_status(self):
        self.good(self.make("a", "--compute", "25%"))
        self.assertEqual(Region(self, "a").rules()[:6], (2500, 2500, 5000, 2000, 1000, 0))
        self.good(self.make("b", "--compute=12.5%+", "--compute-burst=7ms", "--compute-window", "500us", "--mode=temporal"))
        self.assertEqual(Region(self, "b").rules()[:6], (1250, 10000, 7000, 500, 1000, 1))
        self.good(self.make("c"))
        self.assertEqual(Region(self, "c").rules(), (0,) * 7)
        self.assertIsNone(self.time_of("c"))
        t = self.time_of("b")
        self.assertEqual((t["share_percent"], t["ceiling_percent"], t["burst_us"]), (12.5, 100, 7000))
        self.assertIsNone(t["delivered_percent"])
        text = self.call("status").stdout
        self.assertIn("share of GPU 0: 25%\n", text)
        self.assertIn("share of GPU 0: 12.5%+\n", text)

    def test_bad_shares_are_one_line_with_what_is_possible(self):
        for share, part in (("25", "write it like 25%"), ("25+", "25%+ to use idle time"), ("0%", "would never run"),
                            ("101%", "more than the whole device"), ("-5%", "write it like"), ("25%++", "write it like"),
                            ("0.001%", "two digits"), ("none", "write it like")):
            self.refused(self.make("a", "--compute=" + share), 2, "--compute '" + share + "'", part)
        self.refused(self.make("a", "--mode=spatial", "--compute=25%"), 125, "needs the daemon", "use auto or temporal")
        self.refused(self.make("a", "--mode=slice", "--compute=25%"), 125, "needs the daemon", "use auto or temporal")
        self.refused(self.make("a", "--mode=fast"), 2, "'fast' is no mode", "auto, spatial, slice and temporal")
        self.refused(self.make("a", "--compute=25%", "--compute-burst=5"), 2, "'5' is not a time", "5ms")
        self.refused(self.make("a", "--compute=25%", "--compute-window=2s"), 2, "'2s' is not a time", "1us to 1s")
        self.refused(self.make("a", "--compute-burst=5ms"), 2, "need --compute")
        self.refused(self.make("a", env={"BULKHEAD_COMPUTE": "junk"}), 125, "BULKHEAD_COMPUTE='junk'", "25%")
        self.assertFalse((self.dir / "tenants" / "a").exists())

    def test_the_sum_of_floors_is_within_the_device(self):
        self.good(self.make("a", "--compute=75%+"))
        self.refused(self.make("b", "--compute=25.01%"), 125, "25.01% asked of the time of GPU 0",
                     "75% promised to other tenants > 100%", "ask for at most 25%", "--overcommit")
        self.good(self.make("b", "--compute=25%"))
        self.refused(self.make("c", "--compute=1%"), 125, "1% asked", "100% promised to other tenants > 100%; remove a tenant")
        self.good(self.make("c"))  # without a share nothing is promised
        self.good(self.make("d", "--compute=50%", "--overcommit"))

    def test_the_variable_only_lowers(self):
        for name, env, share in (("a", "10%", 1000), ("b", "50%", 2000)):
            self.good(self.make(name, "--compute=20%", env={"BULKHEAD_COMPUTE": env}))
            self.assertEqual(Region(self, name).rules()[0], share)
        self.good(self.make("c", env={"BULKHEAD_COMPUTE": "5%"}))
        self.assertEqual(Region(self, "c").rules()[0], 500)

    def test_the_command_does_not_inherit_the_variable(self):
        r = self.run_it("--memory=1GiB", "--", "/usr/bin/env", env={"BULKHEAD_COMPUTE": "5%"})
        self.assertNotIn("BULKHEAD_COMPUTE", r.stdout)

    def test_joining_with_another_share_is_refused(self):
        self.good(self.make("a", "--compute=25%"))
        self.good(self.make("a", "--compute=25%"))
        self.good(self.make("a"))
        self.refused(self.make("a", "--compute=30%"), 125, "has a share of 25% of GPU 0's time", "not the 30% asked for", "bulkhead set a")
        self.refused(self.make("a", "--compute=25%+"), 125, "not the 25%+ asked for")
        self.refused(self.make("a", "--compute=25%", "--compute-burst=1ms"), 125, "burst 5000 us")
        self.good(self.make("n"))
        self.refused(self.make("n", "--compute=10%"), 125, "has a share of no limit")

    def test_set_changes_a_share_live(self):
        self.good(self.make("a", "--compute=25%"))
        self.good(self.make("b", "--compute=50%"))
        region = Region(self, "a")
        before = region.rules()[6]
        self.good(self.call("set", "a", "--compute", "10%+"))
        self.assertEqual(region.rules()[:6], (1000, 10000, 5000, 2000, 1000, 1))
        self.assertEqual(region.rules()[6], before + 1)
        self.good(self.call("set", "a", "--compute-burst", "1ms", "--memory", "2GiB"))
        self.assertEqual(region.rules()[:3], (1000, 10000, 1000))
        self.assertEqual(self.status()["tenants"][0]["devices"][0]["limit_bytes"], 2 * GIB)
        self.refused(self.call("set", "a", "--compute", "50.5%"), 1, "50.5% asked + 50% promised to other tenants > 100%")
        self.good(self.call("set", "a", "--compute", "none"))
        self.assertEqual(region.rules()[0], 0)
        self.refused(self.call("set", "a", "--compute-burst", "1ms"), 1, "give it one with --compute")
        self.refused(self.call("set", "a"), 2, "--memory SIZE, --compute SHARE")
        self.refused(self.call("set", "a", "--compute", "0%"), 2, "'0%' would never run", "none for no limit")
        self.refused(self.call("set", "a", "--compute", "5%", "--mode", "spatial"), 1, "MPS")

    def test_top_shows_what_was_had(self):
        self.good(self.make("a", "--compute=25%"))
        region = Region(self, "a")
        top = subprocess.Popen([BULKHEAD, "top", "--json", "-n", "2", "-d", "1"], env=self.env, text=True, stdout=subprocess.PIPE,
                               stdin=subprocess.DEVNULL)
        self.addCleanup(top.communicate)
        self.addCleanup(top.kill)
        first = json.loads(top.stdout.readline())["tenants"][0]["devices"][0]["time"]
        region.set_sums(100_000_000, held=3, launches=9)
        second = json.loads(top.stdout.readline())["tenants"][0]["devices"][0]["time"]
        self.assertEqual((first["share_percent"], first["delivered_percent"], first["used_ns"]), (25, None, 0))
        self.assertEqual((second["used_ns"], second["held_ns"], second["launches"]), (100_000_000, 3, 9))
        self.assertGreater(second["delivered_percent"], 0)
        self.assertLessEqual(second["delivered_percent"], 10)  # of a second or longer
        text = self.call("top", "--batch", "-n", "1").stdout
        self.assertIn("  share 25%, had -\n  used 0.1 s, held 0.0 s, borrowed 0.0 s, forgiven 0.0 s\n", text)

    def test_whatever_stands_in_the_sums_fits_eighty_columns(self):
        self.good(self.make("a", "--compute=33.33%+"))
        most = (1 << 64) - 1
        Region(self, "a").set_sums(most, most, most, most, most)
        for words in (["status"], ["top", "--batch", "-n", "1"]):
            for line in self.call(*words).stdout.splitlines():
                if str(self.dir) not in line:
                    self.assertLessEqual(len(line), 80, line)


class Daemon(DaemonCase):
    def share(self, name, *words, uid=None):
        return self.ask("run", "-q", "--tenant", name, "--memory", "1GiB", *words, "--", "/bin/true", uid=uid)

    def floor(self, name):
        return Region(self, name).rules()[0]

    def events(self):
        return [json.loads(line) for line in self.call("events", "--json").stdout.splitlines()]

    def test_admission_shows_the_sum(self):
        self.daemon("[[tenant]]\nname='conf'\nmemory='1GiB'\ncompute='50%+'\nceiling='80%'\nburst='1ms'\nwindow='500us'\ndampening=0.9\n")
        self.assertEqual(Region(self, "conf").rules()[:6], (5000, 8000, 1000, 500, 900, 1))
        self.good(self.share("a", "--compute=25%"))
        self.bad(self.share("b", "--compute=25.01%"), 125, "25.01% asked + 75% promised to others > 100% of the time of GPU 0")
        self.bad(self.share("b", "--mode=slice", "--compute=1%"), 125, "was not tested on GPU 0")
        self.good(self.share("b", "--compute=25%+", "--compute-burst=2ms"))
        self.assertEqual(Region(self, "b").rules()[:3], (2500, 10000, 2000))
        self.good(self.share("b", "--compute=25%+"))  # joins
        self.good(self.ask("run", "-q", "--tenant", "b", "--compute=25%+", "--", "/bin/true"))
        self.bad(self.share("b", "--compute=25%"), 125, "has a share of 25%+ on")
        self.good(self.share("free"))

    def test_a_full_device_is_waited_for(self):
        self.daemon()
        self.good(self.share("a", "--compute=80%"))
        p = subprocess.Popen([BULKHEAD, "run", "--wait", "--tenant", "b", "--memory", "1GiB", "--compute=30%", "--", "/bin/true"],
                             env=self.env, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertIn("place 1 of 1", p.stderr.readline())
        self.good(self.ask("set", "a", "--compute", "70%"))
        self.assertEqual(p.wait(60), 0)
        self.assertEqual(self.floor("b"), 3000)

    def test_set_is_live_told_and_kept(self):
        daemon = self.daemon()
        self.good(self.share("a", "--compute=25%"))
        region = Region(self, "a")
        self.good(self.ask("set", "a", "--compute", "40%+", "--compute-window", "1ms"))
        self.assertEqual(region.rules()[:4], (4000, 10000, 5000, 1000))
        told = [e["text"] for e in self.events() if e["kind"] == "tenant-updated"]
        self.assertEqual(told, ["tenant a updated: share of the GPU's time 25% -> 40%+, window 2000 us -> 1000 us"])
        self.bad(self.ask("set", "a", "--compute", "0%"), 2, "would never run")
        daemon.kill()
        daemon.wait()
        # without it the page binds, and nobody changes it
        self.bad(self.call("set", "a", "--compute", "1%"), 1, "start the daemon to change it")
        region.set_floor(9000)
        self.daemon()
        self.until(lambda: region.rules()[0] == 4000, "the promise again")
        self.good(self.ask("set", "a", "--compute", "none"))
        self.assertEqual(region.rules()[0], 0)

    def test_a_tenant_that_raises_its_own_share_is_set_back(self):
        self.daemon()
        self.good(self.share("a", "--compute=25%"))
        region = Region(self, "a")
        region.set_floor(0)
        self.until(lambda: region.rules()[0] == 2500, "the promise again")
        self.until(lambda: [e for e in self.events() if e["kind"] == "limit-tampered"], "the event")

    def test_tenants_change_hands_with_their_shares(self):
        self.good(self.run_it("--tenant", "a", "--memory", "1GiB", "--compute=60%+", "--compute-burst=1ms", "--", "/bin/true"))
        daemon = self.daemon()
        self.bad(self.share("b", "--compute=50%"), 125, "50% asked + 60% promised to others > 100%")
        self.good(self.ask("set", "a", "--compute", "50%"))
        self.good(self.share("b", "--compute=50%"))
        daemon.terminate()
        daemon.wait()
        r = self.run_it("--tenant", "c", "--memory", "1GiB", "--compute=1%", "--", "/bin/true")
        self.assertIn("1% asked of the time of GPU 0", self.one_line(r.stderr))
        self.assertEqual(Region(self, "a").rules()[:3], (5000, 5000, 1000))

    def test_what_was_had_is_seen_everywhere(self):
        self.daemon()
        self.good(self.share("a", "--compute=25%"))
        region, used = Region(self, "a"), 0

        def time_of_status():
            nonlocal used
            used += 10_000_000  # as the library would, as long as somebody looks
            region.set_sums(used, 2_000_000_000, 3_000_000_000, 4_000_000_000, 5)
            return self.status()["tenants"][0]["devices"][0]["time"]

        t = self.until(lambda: (t := time_of_status())["delivered_percent"] and t, "a delivered share")
        self.assertGreater(t["delivered_percent"], 0)
        self.assertEqual((t["borrowed_ns"], t["forgiven_ns"], t["held_ns"], t["launches"]), (2_000_000_000, 3_000_000_000, 4_000_000_000, 5))
        self.assertIn("borrowed 2.0 s, forgiven 3.0 s", self.call("status").stdout)

        def delivered():
            time_of_status()
            return json.loads(self.call("top", "--json", "-n", "1").stdout)["tenants"][0]["devices"][0]["time"]["delivered_percent"]
        self.until(delivered, "the daemon's figure in the first round of top")

        def counted():
            time_of_status()
            rows = json.loads(self.call("usage", "--json").stdout)["totals"]
            return [r for r in rows if r["tenant"] == "a" and r["counted_ms"] > 0]
        row, = self.until(counted, "usage by the library's count")
        self.assertEqual((row["gpu_source"], row["gpu_ms"]), ("library", row["counted_ms"]))

    @unittest.skipUnless(ROOT, "needs root and setpriv")
    def test_owners_lower_and_never_raise(self):
        self.daemon(OPEN_TO_USERS + "max_compute = '50%'\n")
        self.good(self.share("a", "--compute=30%", uid=1000))
        self.bad(self.share("b", "--compute=21%", uid=1000), 125, "max_compute")
        for share in ("31%", "30%+", "none"):
            self.bad(self.ask("set", "a", "--compute", share, uid=1000), 1, "would raise compute of a")
        self.bad(self.ask("set", "a", "--compute-burst", "6ms", uid=1000), 1, "would raise burst or window of a")
        self.good(self.ask("set", "a", "--compute", "20%", "--compute-burst", "1ms", uid=1000))
        self.assertEqual(Region(self, "a").rules()[:3], (2000, 2000, 1000))
        self.good(self.ask("set", "a", "--compute", "90%"))  # root

    def test_bad_configurations(self):
        for text, part in (("compute='25+'", "'25+' is not a share"), ("compute='0%'", "would never run"),
                           ("compute='150%'", "more than the whole device"), ("compute='50%+'\nceiling='20%'", "below compute, 50%+"),
                           ("mode='spatial'", "mode spatial needs MPS"), ("burst='5'", "write it like 5ms"),
                           ("dampening=2", "0.001 to 1")):
            self.config.write_text("[[tenant]]\nname='a'\nmemory='1GiB'\n" + text + "\n")
            r = subprocess.run([BULKHEAD + "d", "--sim", "h200", "--config", str(self.config), "--no-sight"], env=self.env, text=True,
                               timeout=60, capture_output=True)
            self.assertEqual((r.returncode, len(r.stderr.splitlines())), (78, 1), r.stderr)
            self.assertIn(part, r.stderr)


if __name__ == "__main__":
    main()

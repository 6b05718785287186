"""What is asked of shares and cannot be: one line with what is possible, and nothing started. With the daemon and without."""
import subprocess
import unittest

from cli_case import GIB, main
from daemon_control import DaemonCase

TRUE = ("--", "/bin/true")


class Shares(DaemonCase):
    def limits(self, tenant):
        t, = (t for t in self.status()["tenants"] if t["name"] == tenant)
        return t["devices"][0]["limit_bytes"], t["devices"][0]["total_bytes"]

    def each(self, front):
        ask = lambda *words: self.ask(*front, *words)
        for text, part in (("0%", "from 0.01% to 100%"), ("101%", "more than the whole device"), ("100.01%", "more than the whole device"), ("25", "%"), ("-5%", "%"),
                           ("25%%", "%"), ("a quarter", "%"), ("12.345%", "two digits")):
            self.bad(ask("--memory", "1GiB", "--compute", text, *TRUE), 2, part)
        self.bad(ask("--memory", "1GiB", "--compute", "25%", "--mode", "sideways", *TRUE), 2, "auto, spatial, slice and temporal")
        self.bad(ask("--memory", "1GiB", "--compute", "25%", "--priority", "high", *TRUE), 2, "'high' is neither latency nor batch")
        self.bad(ask("--memory", "1GiB", "--compute-burst", "5ms", *TRUE), 2, "need --compute")
        self.bad(ask("--memory", "1GiB", "--compute", "25%", "--compute-window", "2s", *TRUE), 2, "from 1us to 1s")
        self.bad(ask("--memory", "1GiB", "--streams", "low=25%", *TRUE), 2, "write it like high=25%")

    def test_alone(self):
        front = ("run", "-q", "--no-daemon")
        self.each(front)
        for mode in ("slice", "partition"):
            self.bad(self.ask(*front, "--memory", "1GiB", "--compute", "25%", "--mode", mode, *TRUE), 125, "needs the daemon")
        self.bad(self.ask(*front, *TRUE), 2, "--compute SHARE")
        self.good(self.ask(*front, "--tenant", "a", "--memory", "1GiB", "--compute", "75%", *TRUE))
        self.bad(self.ask(*front, "--memory", "1GiB", "--compute", "50%", *TRUE), 125, "25%")
        self.bad(self.ask("set", "a", "--compute", "101%"), 2, "more than the whole device")

    def test_with_the_daemon(self):
        self.daemon()
        front = ("run", "-q")
        self.each(front)
        self.bad(self.ask(*front, "--memory", "1GiB", "--compute", "25%", "--mode", "slice", *TRUE), 125, "doctor --self-test")
        self.bad(self.ask(*front, "--memory", "1GiB", "--compute", "25%", "--mode", "partition", *TRUE), 125, "[mps] enabled = true")
        self.good(self.ask(*front, "--tenant", "a", "--memory", "1GiB", "--compute", "75%", *TRUE))
        self.bad(self.ask(*front, "--memory", "1GiB", "--compute", "50%", *TRUE), 125, "25%")
        self.good(self.ask(*front, "--tenant", "b", "--memory", "1GiB", "--compute", "20%", *TRUE))
        self.bad(self.ask("set", "b", "--compute", "30%"), 1, "25%")

    def test_a_share_alone_brings_the_same_part_of_the_memory(self):
        r = self.ask("run", "--no-daemon", "--tenant", "a", "--compute", "25%", *TRUE)
        self.good(r)
        self.assertIn("no --memory: its quota is the part of each GPU's memory that --compute is", self.one_line(r.stderr))
        limit, total = self.limits("a")
        self.assertTrue(total // 4 - (2 << 20) < limit <= total // 4, (limit, total))
        self.good(self.ask("run", "-q", "--no-daemon", "--tenant", "b", "--memory", "1GiB", "--compute", "25%", *TRUE))
        self.good(self.ask("run", "-q", "--no-daemon", "--tenant", "b", "--compute", "25%", *TRUE))
        self.assertEqual(self.limits("b")[0], GIB, "one that exists keeps what it has")
        self.daemon()
        for name in ("c", "d"):
            self.good(self.ask("run", "-q", "--tenant", name, "--compute", "12.5%+", *TRUE))
            self.assertTrue(total // 8 - (2 << 20) < self.limits(name)[0] <= total // 8)


if __name__ == "__main__":
    main()

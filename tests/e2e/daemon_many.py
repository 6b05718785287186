"""A full node: 512 tenants declared in one file, through a kill of the daemon. What it costs is printed, never judged."""
import json
import os
import pathlib
import sys
import time
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, until  # noqa: E402

TENANTS = 512
MIB = 1 << 20


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Many(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.node.config.write_text("".join(f'[[tenant]]\nname = "t{i:03}"\nmemory = "200MiB"\n' for i in range(TENANTS)))
        self.node.start()
        self.addCleanup(self.stop)

    def stop(self):
        self.assertEqual(self.node.stop(), 0)

    def limits(self):
        got = json.loads(self.call("status", "--json").stdout)["tenants"]
        return {t["name"]: t["devices"][0]["limit_bytes"] for t in got}

    def test_all_are_there_before_and_after_the_daemon_is_killed(self):
        whole = {f"t{i:03}": 200 * MIB for i in range(TENANTS)}
        self.assertEqual(self.limits(), whole)
        until(lambda: self.node.metrics().count("\nbulkhead_tenant_memory_limit_bytes{") == TENANTS, "all of them in the metrics")
        self.assertEqual(self.call("set", "t511", "--memory", "100MiB").returncode, 0)
        self.node.process.kill()
        self.node.process.wait()
        self.node.start()
        self.assertEqual(self.limits(), {**whole, "t511": 100 * MIB})
        r = self.call("run", "-q", "--tenant", "t300", "--", "true")
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_what_it_costs(self):
        pid = self.node.process.pid
        turns = self.node.metrics()
        before, began = cpu_s(pid), time.monotonic()
        until(lambda: self.node.metrics() != turns and time.monotonic() - began > 4, "four seconds of work")
        spent = 100 * (cpu_s(pid) - before) / (time.monotonic() - began)
        rss = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        print(f"\n{TENANTS} idle tenants: {spent:.1f} % of a core, {rss}")


if __name__ == "__main__":
    sys.exit(main())

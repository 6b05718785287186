"""Metrics: their text, the HTTP around it, and how little the child may do."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

from sight_case import WATCHDOG_S, Case, main

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')
PARSER = """
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(sum(len(f.samples) for f in parse(sys.stdin.read())))
"""


class Metrics(Case):
    def families(self, text):
        """Every line has its place: HELP and TYPE before samples, one block a family, no sample twice."""
        self.assertTrue(text.endswith("# EOF\n"))
        families, seen, name = {}, set(), None
        for line in text.splitlines()[:-1]:
            if line.startswith("# HELP "):
                name = line.split()[2]
                self.assertNotIn(name, families)
                families[name] = {"type": None, "unit": "", "samples": {}}
            elif line.startswith("# TYPE "):
                self.assertEqual(line.split()[2], name)
                families[name]["type"] = line.split()[3]
            elif line.startswith("# UNIT "):
                families[name]["unit"] = line.split()[3]
                self.assertTrue(name.endswith("_" + line.split()[3]), line)
            else:
                m = SAMPLE.match(line)
                self.assertTrue(m, line)
                suffix = m[1][len(name):]
                self.assertTrue(m[1].startswith(name), line)
                wanted = {"counter": {"_total"}, "info": {"_info"}, "gauge": {""},
                          "histogram": {"_bucket", "_sum", "_count"}}
                self.assertIn(suffix, wanted[families[name]["type"]], line)
                self.assertNotIn((m[1], m[2]), seen)
                seen.add((m[1], m[2]))
                families[name]["samples"][m[1] + "{" + (m[2] or "") + "}"] = float(m[3])
        return families

    def test_text(self):
        status, headers, text = self.get("/metrics")
        self.assertEqual(status, 200)
        self.assertTrue(headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0"))
        f = self.families(text)
        self.assertEqual(f["bulkhead_up"]["samples"], {"bulkhead_up{}": 1})
        limits = f["bulkhead_tenant_memory_limit_bytes"]["samples"]
        self.assertEqual(limits['bulkhead_tenant_memory_limit_bytes{gpu_uuid="GPU-5a65707b-8691-9ca7-b2bd-c8d3dee9f4ff",'
                                'tenant="inference-prod"}'], 40 << 30)
        # Unknown figures are left out, not shown as zero or as 2^64 - 1.
        self.assertEqual(len(f["bulkhead_tenant_gpu_seconds"]["samples"]), 4)
        self.assertNotIn("namespace=", text)

    def test_shares_of_time_are_there_for_limited_tenants_only(self):
        families = self.families(self.get("/metrics")[2])

        def of(family, tenant):
            samples = families["bulkhead_tenant_compute_" + family]["samples"]
            return [v for k, v in samples.items() if f'tenant="{tenant}"' in k]
        self.assertEqual((of("share_ratio", "inference-prod"), of("ceiling_ratio", "inference-prod")), ([0.4], [0.4]))
        self.assertEqual((of("share_ratio", "training-nightly"), of("ceiling_ratio", "training-nightly")), ([0.25], [0.8]))
        for family in ("used_seconds", "held_seconds", "borrowed_seconds", "forgiven_seconds"):
            self.assertEqual(families["bulkhead_tenant_compute_" + family]["type"], "counter")
            value, = of(family, "training-nightly")
            self.assertGreater(value, 0)
        delivered, = of("delivered_ratio", "training-nightly")
        self.assertTrue(0 < delivered <= 0.8, delivered)
        for family in ("share_ratio", "ceiling_ratio", "delivered_ratio", "used_seconds", "launches"):
            self.assertEqual(of(family, "sandbox"), [], family)  # no limit: not 0, but nothing

    def test_how_shares_are_held(self):
        families = self.families(self.get("/metrics")[2])
        modes = families["bulkhead_tenant_compute_mode"]["samples"]
        self.assertEqual(modes['bulkhead_tenant_compute_mode_info{tenant="inference-prod",asked="auto",enforcer="spatial",mps_group="prod",'
                               'mps_state="serving"}'], 1)
        self.assertEqual(modes['bulkhead_tenant_compute_mode_info{tenant="risk-batch",asked="slice",enforcer="slice"}'], 1)
        seen = {}
        for key, value in families["bulkhead_device_self_test"]["samples"].items():
            uuid, test = re.search(r'gpu_uuid="([^"]*)",test="([^"]*)"', key).groups()
            seen.setdefault(uuid, {})[test] = value
        first, second = sorted(seen.values(), key=len)
        self.assertEqual(first, {"spatial": 1, "partitions": 0, "green": 1})  # slices there: not tested, so not there
        self.assertEqual(second, {**first, "slice": 1})
        bounds = sorted(families["bulkhead_device_gate_bound_seconds"]["samples"].values())
        self.assertEqual(bounds, [0.00094, 0.00208])

    def test_tenants_text_is_escaped(self):
        text = self.get("/metrics")[2]
        self.assertIn('tenant="<script>window.broken=1</script>\\"\\\\??"', text)

    def test_histogram(self):
        s = self.families(self.get("/metrics")[2])["bulkhead_reap_delay_seconds"]["samples"]
        buckets = [v for k, v in s.items() if "_bucket" in k]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], s["bulkhead_reap_delay_seconds_count{}"])
        self.assertEqual(s['bulkhead_reap_delay_seconds_bucket{le="0.000128"}'], 74)
        self.assertEqual(s["bulkhead_reap_delay_seconds_count{}"], 117)

    def test_promtool(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not installed (package prometheus)")
        status, headers, text = self.get("/metrics", Accept="text/plain")
        self.assertTrue(headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        r = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=WATCHDOG_S)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, "", ""))

    def test_a_strict_parser(self):
        text = self.get("/metrics")[2]
        r = subprocess.run(["/usr/bin/python3", "-c", PARSER], input=text, text=True, capture_output=True, timeout=WATCHDOG_S)
        if "No module named" in r.stderr:
            self.skipTest("package python3-prometheus-client is not installed")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(int(r.stdout), sum(len(f["samples"]) for f in self.families(text).values()))

    def test_foreign_names_only_by_flag(self):
        text = self.get("/metrics")[2]
        for name in ("hami_", "vGPU_", "HostGPU", "DCGM_"):
            self.assertNotIn(name, text)

    def test_old_figures_are_not_shown_as_new(self):
        self.order("freeze")
        self.until(lambda: "bulkhead_up 0\n" in self.get("/metrics")[2], "up 0 for a picture that stands still")
        self.assertNotIn("bulkhead_tenant_memory_used_bytes", self.get("/metrics")[2])
        self.assertEqual(self.get("/healthz")[0], 503)
        self.order("odd")  # as a daemon that is killed while it writes leaves it
        self.assertEqual(self.get("/healthz")[0], 503)
        self.order("even")
        self.order("go")
        self.until(lambda: "bulkhead_up 1\n" in self.get("/metrics")[2], "up 1 again")
        self.assertEqual(self.get("/healthz")[0], 200)

    def test_http(self):
        self.assertEqual(self.get("/metrics", self.metrics)[0], 200)
        self.assertEqual(self.get("/metrics", self.metrics, "HEAD")[2], "")
        self.assertEqual(self.get("/metrics", self.metrics, "POST")[0], 405)
        self.assertEqual(self.get("/metrics", self.metrics, host="attacker.example")[0], 421)
        self.assertEqual(self.get("/metrics", self.metrics, host="127.0.0.1")[0], 421)
        self.assertEqual(self.get("/metrics", self.metrics, host="LocalHost:%d" % self.metrics)[0], 200)
        self.assertEqual(self.get("/etc/passwd")[0], 404)
        self.assertEqual(self.get("/metrics", Content_Length="5")[0], 413)
        self.assertEqual(self.get("/metrics", Transfer_Encoding="chunked")[0], 501)

    def raw(self, data):
        with socket.create_connection(("127.0.0.1", self.metrics), timeout=WATCHDOG_S) as s:
            s.sendall(data)
            out = b""
            while chunk := s.recv(65536):
                out += chunk
        return int(out.split()[1]) if out else 0

    def test_malformed(self):
        host = b"Host: localhost:%d\r\n" % self.metrics
        for data, status in ((b"nonsense\r\n\r\n", 400), (b"GET /metrics HTTP/2.0\r\n\r\n", 505), (b"\r\n\r\n", 400),
                             (b"GET /metrics HTTP/1.1\r\n" + host + host + b"\r\n", 400),
                             (b"GET /metrics HTTP/1.1\r\n name: x\r\n\r\n", 400),
                             (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
                             (b"GET /metrics HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
                             (b"GET /%s HTTP/1.1\r\n" % (b"x" * 9000), 431)):
            self.assertEqual(self.raw(data), status, data[:60])
        # One byte at a time is served as well.
        with socket.create_connection(("127.0.0.1", self.metrics), timeout=WATCHDOG_S) as s:
            for b in b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n":
                s.sendall(bytes([b]))
            self.assertTrue(s.recv(64).startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_silent_peers_do_not_starve_others(self):
        silent = [socket.create_connection(("127.0.0.1", self.metrics)) for _ in range(120)]
        self.assertEqual(self.get("/metrics", self.metrics)[0], 200)
        self.assertEqual(self.get("/metrics")[0], 200)
        for s in silent:
            s.close()

    def status_of(self, pid):
        return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())

    def test_it_may_do_nothing(self):
        self.get("/healthz")  # it serves: so it has dropped everything
        status = self.status_of(self.child)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["Seccomp"], "2")
        self.assertEqual(int(status["CapEff"], 16) if os.geteuid() == 0 else 0, 0)
        if os.geteuid() == 0:
            self.assertNotIn("0", status["Uid"].split())
            self.assertNotIn("0", status["Gid"].split())
            self.assertEqual(status["Groups"].split(), [])
            # 0-2, sockets; neither the picture nor the orders stay open
            names = {n: os.readlink(f"/proc/{self.child}/fd/{n}") for n in os.listdir(f"/proc/{self.child}/fd")}
            self.assertEqual(sum(n.startswith("socket:") for n in names.values()), 3, names)
            self.assertLessEqual(len(names), 6, names)
            maps = pathlib.Path(f"/proc/{self.child}/maps").read_text()
            self.assertRegex(maps, r"r--s .*memfd:picture")
            self.assertNotRegex(maps, r"w.s .*memfd:picture")
        self.assertEqual((self.dir / "console.url").stat().st_mode & 0o777, 0o640)
        self.assertEqual((self.dir / "metrics.sock").stat().st_mode & 0o007, 0)


class Foreign(Case):
    flags = ("--hami", "--dcgm")

    def test_names(self):
        text = self.get("/metrics")[2]
        for name in ("hami_vgpu_memory_used_bytes{", "vGPU_device_memory_limit_in_bytes{", "HostCoreUtilization{",
                     "hami_container_device_utilization_ratio{", "DCGM_FI_DEV_FB_USED{gpu="):
            self.assertIn("\n" + name, text)
        used = int(re.search(r"^DCGM_FI_DEV_FB_USED\{gpu=\"0\".*\} (\d+)$", text, re.M)[1])
        free = int(re.search(r"^DCGM_FI_DEV_FB_FREE\{gpu=\"0\".*\} (\d+)$", text, re.M)[1])
        self.assertAlmostEqual(used + free, 150754820096 >> 20, delta=1)  # MiB


class Keeper(Case):
    def alive(self, pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] not in "ZX"
        except FileNotFoundError:
            return False

    def test_a_dead_child_is_replaced_and_the_token_stays(self):
        os.kill(self.child, signal.SIGKILL)
        self.until(lambda: not self.alive(self.child), "the child's end")
        self.assertEqual(self.order("tick")[0], "0")  # found dead; not restarted at once
        pid, restarts, _ = self.order("tick 2")
        self.assertEqual(restarts, "1")
        self.assertNotEqual(int(pid), self.child)
        self.assertEqual(self.get("/api/v1/state", self.console, Authorization="Bearer " + self.token)[0], 200)

    def test_it_goes_with_its_parent(self):
        pid = int(self.order("tick")[0]) or int(self.order("tick 70")[0])
        self.get("/healthz")
        self.filler.kill()
        self.until(lambda: not self.alive(pid), "the child's end after its parent's")


if __name__ == "__main__":
    main()

"""What a live node shows of how shares are held: `status`, `top` and the metrics say the same of a spatial tenant, one that goes first
and a batch tenant that was held for it."""
import json
import socket
import subprocess

from cli_case import BUILD, WATCHDOG_S, main
import compute_gate
import spatial_case as spatial

BULKHEADD = BUILD / "bin" / "bulkheadd"


class Shown(spatial.SpatialCase):
    client, go, done, end, said, hog, requests, held_once, counted, tenant = (getattr(compute_gate.Gate, name) for name in (
        "client", "go", "done", "end", "said", "hog", "requests", "held_once", "counted", "tenant"))

    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM_TIMED"] = "1"
        self.verdict(slice={"verdict": "no", "evidence": "as a test says"})
        self.config.write_text(spatial.MPS + spatial.SpatialCase.tenant("model"))
        p = subprocess.Popen([BULKHEADD, "--sim", "h200", "--config", str(self.config)], env=self.env, stdin=subprocess.DEVNULL)
        self.addCleanup(p.wait)
        self.addCleanup(p.terminate)
        self.until(lambda: self.status()["daemon"] == "answers", "it answers")
        self.serving()

    def metrics(self):
        def read():
            parts = []
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(WATCHDOG_S)
                if s.connect_ex(str(self.dir / "metrics.sock")) != 0:
                    return ""
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while part := s.recv(1 << 16):
                    parts.append(part)
            return b"".join(parts).decode()
        # the picture is a second old at most: it knows of the gate's bound a moment after the daemon does
        return self.until(lambda: "bulkhead_device_gate_bound_seconds{" in (text := read()) and text, "the metrics")

    def top(self):
        r = self.call("top", "--json", "-n", "1")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        return json.loads(r.stdout)

    def test_status_top_and_metrics_say_the_same(self):
        hog = self.hog("--compute", "50%")
        self.held_once()
        status = self.until(lambda: (s := self.status())["gpus"][0]["gate_bound_us"] and s, "the bound")
        top, text, lines = self.top(), self.metrics(), self.call("top", "--batch", "-n", "1").stdout.splitlines()
        self.assertEqual(status["gpus"][0]["self_tests"], {"spatial": "works", "partitions": "unknown", "green": "unknown", "slice": "no"})
        self.assertEqual(top["gpus"][0]["self_tests"], status["gpus"][0]["self_tests"])
        self.assertGreaterEqual(top["gpus"][0]["gate_bound_us"], 5000)
        want = {"model": ("batch", "auto", "spatial", "g"), "web": ("latency", "auto", "temporal", None),
                "hog": ("batch", "auto", "temporal", None)}
        keys = ("priority", "mode", "enforcer", "mps_group")
        for name, what in want.items():
            for shown in (status, top):
                t = next(t for t in shown["tenants"] if t["name"] == name)
                self.assertEqual(tuple(t[k] for k in keys), what, name)
        mine = next(t for t in top["tenants"] if t["name"] == "hog")["devices"][0]
        self.assertGreater(mine["gated_ns"], 0)
        self.assertEqual(mine["time"]["share_percent"], 50)
        self.assertIn('bulkhead_tenant_compute_mode_info{tenant="model",asked="auto",enforcer="spatial",mps_group="g",mps_state="serving"} 1', text)
        self.assertRegex(text, r'bulkhead_device_self_test\{gpu_uuid="[^"]*",test="spatial"\} 1\n')
        self.assertRegex(text, r'bulkhead_device_self_test\{gpu_uuid="[^"]*",test="slice"\} 0\n')
        self.assertNotIn('test="green"', text)
        self.assertRegex(text, r'bulkhead_tenant_latency_priority\{tenant="web"\} 1\n')
        page = "\n".join(lines)
        self.assertIn("spatial (asked auto) in MPS group g", page)
        self.assertIn("goes first", page)
        self.assertRegex(page, r"who goes first waits \d+\.\d\d ms at most")
        self.assertRegex(page, r"held \d+\.\d s for latency tenants")
        self.assertLessEqual(max(map(len, lines)), 80)
        said = self.call("status").stdout
        self.assertIn("self-tests: spatial works, slice no", said)
        self.assertRegex(said, r"share of GPU 0: 25%, spatial \(asked auto\)")
        self.end(hog)


if __name__ == "__main__":
    main()

"""Audit modes that move: set, rollout and its falling back, coverage, and tokens verified again; real daemon, real library, simulated driver."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, until  # noqa: E402

CLIENT = BUILD / "tests" / "audit_client"
SUBJECT = "spiffe://firm.example/trade"
# A program of the tenant: copies N times 4 KiB to the device at each order, and says the last answer.
COPIER = """
import ctypes, sys
cu = ctypes.CDLL("libcuda.so.1")
device, context, p = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
assert cu.cuInit(0) == 0 and cu.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cu.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0 and cu.cuCtxSetCurrent(context) == 0
assert cu.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t(1 << 20)) == 0
host = ctypes.create_string_buffer(4096)
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        r = cu.cuMemcpyHtoD_v2(p, host, ctypes.c_size_t(4096))
    print(r, flush=True)
"""


class Rollout(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env, sight=False)
        self.log = self.dir / "state" / "audit"
        self.cleanups = []
        self.addCleanup(self.end)

    def end(self):
        for p in self.cleanups:
            p.kill()
            p.wait()
            p.stdout.close()
            if not p.stdin.closed:
                p.stdin.close()
        if self.node.process and self.node.process.poll() is None:
            self.node.stop()
        for proc in pathlib.Path("/proc").glob("[0-9]*"):  # the keeper of a daemon that was killed
            try:
                mine = f"BULKHEAD_DIR={self.dir}".encode() in (proc / "environ").read_bytes().split(b"\0")
                if mine and b"--keeper" in (proc / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(proc.name), signal.SIGKILL)
            except OSError:
                pass

    def daemon(self, audit="off", audit_lines="", more=""):
        self.node.config.write_text(f'[audit]\ndeadline_ms = 60000\n{audit_lines}{more}\n[[tenant]]\nname = "t"\nmemory = "10GiB"\n'
                                    f'audit = "{audit}"\ngrant_subject = "{SUBJECT}"\n')
        self.node.start()

    def popen(self, *argv, **more):
        p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **{"env": self.env, **more})
        self.cleanups.append(p)
        return p

    def copier(self):
        p = self.popen(BULKHEAD, "run", "-q", "--tenant", "t", "--", sys.executable, "-c", COPIER)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def copy(self, p, n):
        p.stdin.write(f"{n}\n")
        p.stdin.flush()
        return int(p.stdout.readline())

    def stop_copier(self, p):
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)

    def good(self, *words):
        r = self.call(*words)
        self.assertEqual(r.returncode, 0, (words, r.stderr))
        return r.stdout

    def mode(self):
        return self.state()["mode"]

    def state(self):
        return json.loads(self.call("rollout", "t", "--json").stdout)

    def entries(self):
        """What the log holds, once it is signed: entries and records."""
        return [json.loads(line) for line in self.call("audit", "export", str(self.log)).stdout.splitlines()]

    def records(self, kind):
        found = [e.get("record", e) for e in self.entries()]
        return [r for r in found if isinstance(r, dict) and r.get("record") == kind]

    def wait_for_step(self, step):
        return until(lambda: [r for r in self.records("rollout") if r["step"] == step], f"step {step} in the log")[-1]

    def coverage(self, *words):
        r = self.call("audit", "coverage", "t", "--dir", str(self.log), "--json", *words)
        return r.returncode, json.loads(r.stdout)

    def verify(self, *words):
        return self.call("audit", "verify", str(self.log), "--key", str(self.log / "host.pub"), "--json", *words)

    def explained(self):
        """Every mode that a rollout set has its step before it, and every fall back is told."""
        step = None
        for e in self.entries():
            r = e.get("record", {})
            if not isinstance(r, dict):
                continue
            if r.get("record") == "rollout" and r["step"] in ("moved", "fell-back"):
                step = r["mode"]
            if r.get("record") == "mode" and r["by"] == "rollout":
                self.assertEqual(r["mode"], step)
                self.assertTrue(r["why"])
                step = None

    # ---- modes by hand
    def test_a_mode_is_changed_while_a_program_runs(self):
        self.daemon()
        p = self.copier()
        self.assertEqual(self.copy(p, 3), 0)  # nothing looks
        self.good("set", "t", "--audit", "observe")
        until(lambda: self.copy(p, 1) == 0 and self.coverage()[1]["logged_calls"] > 0, "a logged copy")
        self.good("set", "t", "--audit", "enforce")
        until(lambda: self.copy(p, 1) == 800, "a refused copy")
        self.good("set", "t", "--audit", "observe")
        until(lambda: self.copy(p, 1) == 0, "a copy goes through again")
        self.copy(p, 50)
        code, said = self.coverage()
        self.assertEqual((code, said["verdict"]), (0, "covered"), said)
        self.assertEqual(said["counted_calls"], said["logged_calls"])
        self.assertEqual(said["counted_bytes"], said["logged_bytes"])
        self.assertGreater(said["denied"], 0)
        self.stop_copier(p)
        self.assertEqual(self.coverage()[0], 0)
        modes = until(lambda: len(self.records("mode")) >= 3 and self.records("mode"), "the modes in the log")
        self.assertEqual([(m["was"], m["mode"], m["by"]) for m in modes],
                         [("off", "observe", "set"), ("observe", "enforce", "set"), ("enforce", "observe", "set")])
        self.assertEqual(self.node.stop(), 0)
        r = self.verify()
        self.assertEqual((r.returncode, json.loads(r.stdout)["findings"]), (0, []))
        self.assertEqual(self.call("set", "t", "--audit", "perhaps").returncode, 2)

    # ---- rollouts
    def test_it_arrives_and_says_each_step(self):
        self.daemon()
        r = self.call("rollout", "t", "--to", "enforce", "--abort-on", "gap,p99=1s", "--watch", "200ms", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        last = json.loads(r.stdout.splitlines()[-1])
        self.assertEqual((last["state"], last["mode"]), ("done", "enforce"))
        self.wait_for_step("done")
        self.assertEqual([s["step"] for s in self.records("rollout")], ["began", "moved", "moved", "done"])
        self.explained()
        kinds = [json.loads(line)["kind"] for line in self.good("events", "--json").splitlines()]
        self.assertEqual([k for k in kinds if k.startswith("rollout-")], ["rollout-began", "rollout-moved", "rollout-moved", "rollout-done"])
        self.assertEqual(self.call("rollout", "t", "--to", "enforce").returncode, 1)  # it is there

    def fall_back(self, condition, act, mode, *words):
        cli = self.popen(BULKHEAD, "rollout", "t", "--to", "enforce", "--abort-on", condition, "--watch", "1h", "--json", *words)
        until(lambda: self.mode() == "observe", "observe")
        act()
        self.assertEqual(cli.wait(60), 1)
        s = self.state()
        self.assertEqual((s["state"], s["mode"]), ("fell-back", mode))
        self.assertTrue(s["why"].startswith(condition.split("=")[0] + ":"), s["why"])
        told = self.wait_for_step("fell-back")
        self.assertEqual((told["why"], told["mode"]), (s["why"], mode))
        self.explained()
        kinds = [json.loads(line)["kind"] for line in self.good("events", "--json").splitlines()]
        self.assertIn("rollout-fell-back", kinds)

    def test_a_gap_where_there_was_no_lane(self):
        self.daemon(audit_lines='lane_budget = "1MiB"\n')

        def act():
            p = self.copier()
            self.assertEqual(self.copy(p, 7), 0)
            self.stop_copier(p)
        self.fall_back("gap", act, "off")
        gap = until(lambda: self.records("gap"), "the gap's record")
        self.assertEqual((sum(g["count"] for g in gap), sum(g["bytes"] for g in gap)), (7, 7 * 4096))
        code, said = self.coverage()
        self.assertEqual((code, said["verdict"], said["missed_calls"], said["no_lane_calls"]), (1, "gap", 7, 7))
        self.assertEqual(self.node.stop(), 0)
        r = self.verify()
        self.assertEqual(r.returncode, 1)
        self.assertEqual({f["check"] for f in json.loads(r.stdout)["findings"]}, {"gap"})

    def test_a_gap_where_the_lane_was_full(self):
        self.daemon(audit_lines='deadline_ms = 1\nfull = "count"\n'.replace("deadline_ms = 1\n", ""))
        self.node.config.write_text(self.node.config.read_text().replace("deadline_ms = 60000", "deadline_ms = 1"))
        self.node.process.send_signal(signal.SIGHUP)
        until(lambda: [e for e in self.good("events", "--json").splitlines() if "config-loaded" in e], "the new rules")

        def act():
            p = self.popen(CLIENT, str(pathlib.Path(self.home.name) / "rows"), "1", "200000", "stopped",
                           env={**self.env, "BULKHEAD_TENANT": "t", "LD_LIBRARY_PATH": str(BUILD / "sim")})
            self.assertEqual(p.stdout.readline(), "init 0\n")
            self.assertEqual(p.stdout.readline(), "ready\n")
            self.node.process.send_signal(signal.SIGSTOP)
            p.stdin.write("go\n")
            p.stdin.flush()
            self.assertEqual(p.stdout.readline(), "done\n")
            self.node.process.send_signal(signal.SIGCONT)
            p.stdin.close()
            self.assertEqual(p.wait(60), 0)
        self.fall_back("gap", act, "off")
        code, said = self.coverage()
        self.assertEqual((code, said["verdict"], said["lost_calls"]), (1, "gap", 0), said)
        self.assertEqual(said["counted_calls"], said["logged_calls"] + said["missed_calls"])
        self.assertGreater(said["no_room_calls"], 0)
        until(lambda: self.coverage()[1]["gap_calls"] == said["missed_calls"], "each missing entry is named in the log")

    def test_refusals_to_come(self):
        self.daemon()

        def act():
            p = self.copier()
            self.assertEqual(self.copy(p, 5), 0)
            self.stop_copier(p)
        self.fall_back("refusals=5", act, "off")

    def test_a_breach_of_the_p99(self):
        self.daemon()

        def act():  # its first call asks the daemon for a lane: one in three of what is measured
            p = self.copier()
            self.assertEqual(self.copy(p, 2), 0)
            self.stop_copier(p)
        self.fall_back("p99=1us", act, "off")

    def test_the_services_own_figure(self):
        self.daemon()
        figure = pathlib.Path(self.home.name) / "p99"
        figure.write_text("0.5\n")
        self.fall_back("service-p99=0.8ms", lambda: figure.write_text("0.9\n"), "off", "--service-file", str(figure))

    def test_killed_in_the_middle_it_goes_on(self):
        self.daemon()
        cli = self.popen(BULKHEAD, "rollout", "t", "--to", "enforce", "--abort-on", "gap", "--watch", "1s")
        until(lambda: self.mode() == "observe", "observe")
        cli.kill()
        cli.wait()
        self.node.kill()
        self.node.start()
        self.assertIn(self.mode(), ("observe", "enforce"))
        until(lambda: self.mode() == "enforce", "enforce")
        self.node.kill()
        self.node.start()
        until(lambda: self.state()["state"] == "done", "its end")
        self.wait_for_step("done")
        self.explained()
        self.assertEqual(self.node.stop(), 0)
        self.assertEqual(self.verify().returncode, 0)

    def test_stopped_by_hand(self):
        self.daemon()
        self.good("rollout", "t", "--to", "enforce", "--watch", "1h", "--detach")
        self.good("rollout", "t", "--stop")
        s = self.state()
        self.assertEqual((s["state"], s["mode"]), ("stopped", "observe"))
        self.good("rollout", "t", "--to", "enforce", "--watch", "1h", "--detach")
        self.good("set", "t", "--audit", "off")
        s = self.state()
        self.assertEqual((s["state"], s["mode"]), ("stopped", "off"))
        for words in (["--to", "enforce", "--watch", "0s"], ["--to", "enforce", "--abort-on", "p99"], ["--abort-on", "gap"],
                      ["--to", "enforce", "--abort-on", "service-p99=1ms"]):
            self.assertEqual(self.call("rollout", "t", *words).returncode, 2, words)

    # ---- tokens
    def test_tokens_are_verified_again(self):
        at = pathlib.Path(self.home.name)
        for name in ("issuer", "other"):
            self.good("grant", "keygen", "--key", str(at / f"{name}.pem"), "--jwks", str(at / f"{name}.json"))
        self.daemon("enforce", more=f'[trust]\njwks = "{at}/issuer.json"\naudience = "n"\n')
        gpu = "GPU-" + self.node.status()["gpus"][0]["uuid"].removeprefix("GPU-")
        self.good("grant", "issue", "--key", str(at / "issuer.pem"), "--subject", SUBJECT, "--audience", "n", "--gpu", gpu,
                  "--class", "mnpi", "--actions", "h2d,map", "--for", "10m", "--out", str(at / "t.jwt"))
        self.good("grant", "renew", "t", str(at / "t.jwt"))
        p = self.copier()
        self.assertEqual(self.copy(p, 20), 0)
        self.stop_copier(p)
        self.assertEqual(self.coverage()[0], 0)
        self.assertEqual(self.node.stop(), 0)
        r = self.verify("--jwks", str(at / "issuer.json"))
        said = json.loads(r.stdout)
        self.assertEqual((r.returncode, said["tokens"], said["unknown_keys"], said["findings"]), (0, 1, 0, []))
        r = self.verify("--jwks", str(at / "other.json"))
        self.assertEqual((r.returncode, json.loads(r.stdout)["unknown_keys"]), (2, 1))
        self.assertEqual(self.verify("--jwks", str(at / "issuer.pem")).returncode, 2)


if __name__ == "__main__":
    sys.exit(main())

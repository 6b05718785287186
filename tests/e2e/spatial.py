"""Spatial shares end to end on the simulated driver: a control program of our own (fake_mps_control.py), real daemons, real processes.

What is shown of multiprocessors is the simulator's: that the library's variables reach the driver before it wakes."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, Case, main
from spatial_case import FAKE, MPS, SMS, SpatialCase

# A process without a tenant that looks for the driver, makes two channel groups and waits until it is told to end.
GROUPS = """
import ctypes, struct, sys
libc = ctypes.CDLL(None)
ctypes.CDLL(sys.argv[1]).cuInit  # whoever looks for the driver is asked for
node = open("/dev/null")
for group in (0x5c000015, 0x5c00003e):
    request = ctypes.create_string_buffer(struct.pack("<4IQQ4I", 1, 2, group, 0xa06c, 0, 0, 0, 0, 0, 0))
    assert libc.ioctl(node.fileno(), ctypes.c_ulong(3 << 30 | 48 << 16 | ord("F") << 8 | 0x2b), request) == 0
sys.stdin.read()
"""


class Groups(unittest.TestCase):
    """The self-test's batch program is of no tenant: its slices are set all the same."""

    def test_both_groups_of_a_process_without_a_tenant(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("BULKHEAD")}
        env["LD_PRELOAD"] = f"{BUILD / 'lib/libbulkhead.so'} {BUILD / 'tests/libfake_channels.so'}"
        p = subprocess.Popen([sys.executable, "-c", GROUPS, str(BUILD / "sim/libcuda.so.1")], env={**env, "BULKHEAD_SLICE_US": "100"},
                             stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(p.kill)
        told = {p.stderr.readline().strip() for _ in range(2)}
        self.assertEqual(told, {"slice of 5c000015: 100", "slice of 5c00003e: 100"})
        p.communicate("")


class Confinement(SpatialCase):
    def test_a_tenants_processes_have_its_share_of_the_multiprocessors_and_never_more(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a") + self.tenant("b", "12.5%") + self.tenant("t", "25%", "temporal"))
        self.serving()
        pipe = str(self.home_of("g") / "pipe")
        self.assertEqual(self.sms("a"), (32, "25", pipe))
        self.assertEqual(self.sms("b"), (16, "12.5", pipe))
        # its own wider wish is not obeyed, before it starts or in the running program; a lower one is
        self.assertEqual(self.sms("a", env={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "80"}), (32, "25", pipe))
        self.assertEqual(self.sms("a", "80"), (32, "25", pipe))
        self.assertEqual(self.sms("a", env={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "10"}), (12, "10", pipe))
        self.assertEqual(self.sms("a", env={"CUDA_MPS_PIPE_DIRECTORY": "/tmp/another"}), (32, "25", pipe))
        self.assertEqual(self.sms("t"), (132, "", ""))
        self.assertEqual((self.of("a")["mode"], self.of("a")["enforcer"], self.of("a")["mps_group"]), ("auto", "spatial", "g"))
        self.assertEqual((self.of("t")["enforcer"], self.of("t")["mode"]), ("temporal", "temporal"))
        self.assertEqual(self.groups()["g"]["tenants"], ["a", "b"])
        shown = self.ask("status").stdout
        self.assertIn("one failure domain: a, b", shown)
        self.assertIn("share of GPU 0: 25%, spatial (asked auto)", shown)

    def test_a_preloaded_program_without_run_is_confined_too(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a"))
        self.serving()
        env = {**self.env, "LD_PRELOAD": str(BUILD / "lib" / "libbulkhead.so"), "LD_LIBRARY_PATH": str(BUILD / "sim"), "BULKHEAD_TENANT": "a",
               "BULKHEAD_DIR": str(self.dir)}
        r = subprocess.run([sys.executable, "-c", SMS], env=env, text=True, timeout=60, capture_output=True)
        self.assertEqual(r.stdout.split()[:2], ["32", "25"], r.stderr)

    def test_a_share_that_is_set_reaches_new_processes_and_says_so(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a", mode="spatial"))
        self.serving()
        r = self.ask("set", "a", "--compute", "50%")
        self.good(r)
        self.assertIn("processes that run keep", self.one_line(r.stderr))
        self.assertEqual(self.sms("a")[:2], (66, "50"))
        self.bad(self.ask("set", "a", "--compute", "1%"), 1, "ask for at least 6.07%")
        self.good(self.ask("set", "a", "--mode", "temporal"))
        self.assertEqual(self.sms("a")[0], 132)


class Holding(SpatialCase):
    """Who is confined is not held in time, everybody else is: S1. On the simulator's clock, kernels of 1 ms that fill the GPU."""

    def load(self, tenant, ms):
        env = {**self.env, "BULKHEAD_SIM_TIMED": "1"}
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--tenant", tenant, "--", str(BUILD / "tests" / "launch_client"), "plain", "1000", str(ms)],
                             env=env, text=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.addCleanup(self.end_processes, tenant)
        self.assertTrue(p.stdout.readline())
        return p

    def end_processes(self, tenant):
        """The programs themselves: `run` passes no SIGKILL on."""
        for process in (self.of(tenant) or {"processes": []})["processes"]:
            try:
                os.kill(process["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass

    def ends(self, *loads):
        for p in loads:
            self.assertEqual(p.wait(60), 0)

    def time(self, tenant):
        return self.of(tenant)["devices"][0]["time"]

    def test_one_that_is_confined_is_charged_and_never_held(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a"))
        self.serving()
        self.ends(self.load("a", 1500))
        self.until(lambda: self.time("a")["launches"] > 0, "its work is counted")
        self.assertEqual(self.time("a")["held_ns"], 0)

    def test_without_mps_it_is_held_in_time(self):
        self.verdict()
        home = self.home_of("g")
        home.mkdir(parents=True)
        (home / "fail").write_text("-d error\n")
        self.daemon(tenants=self.tenant("a"))
        self.told("mps-failed")
        self.assertEqual(self.of("a")["enforcer"], "spatial")
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--no-daemon", "--tenant", "a", "--", str(BUILD / "tests" / "launch_client"), "plain", "1000", "1500"],
                             env={**self.env, "BULKHEAD_SIM_TIMED": "1"}, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        self.assertEqual(p.wait(60), 0)
        self.assertGreater(self.time("a")["held_ns"], 0)

    def test_a_share_that_is_lowered_binds_what_runs(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a", "50%"))
        self.serving()
        self.load("a", 60_000)
        self.until(lambda: self.time("a")["launches"] > 20, "it runs")
        self.assertEqual(self.time("a")["held_ns"], 0)
        self.good(self.ask("set", "a", "--compute", "25%"))
        self.until(lambda: self.time("a")["held_ns"] > 0, "it is held")

    def test_several_processes_have_no_more_than_one(self):
        self.verdict()
        self.daemon(tenants=self.tenant("a"))
        self.serving()
        self.load("a", 60_000)
        self.load("a", 60_000)
        self.until(lambda: self.time("a")["held_ns"] > 0, "they are held")


class Choice(SpatialCase):
    def test_without_a_verdict_nothing_is_spatial_and_nothing_is_started(self):
        self.daemon(tenants=self.tenant("a") + self.tenant("b", mode="spatial"))
        self.assertEqual(self.sms("a")[0], 132)
        self.assertEqual(self.of("a")["enforcer"], "temporal")
        self.assertIn("tenant b: mode spatial was not tested on GPU 0", self.status()["condition"])
        self.assertFalse((self.dir / "mps").exists())

    def test_nothing_is_started_without_the_operators_consent(self):
        self.verdict()
        self.daemon(mps="")
        self.bad(self.ask("run", "--memory", "1GiB", "--compute", "25%", "--mode", "spatial", "--", "/bin/true"), 125, "[mps] enabled = true")
        self.good(self.ask("run", "-q", "--memory", "1GiB", "--compute", "25%", "--mode", "auto", "--", "/bin/true"))
        self.assertFalse((self.dir / "mps").exists())

    def test_a_verdict_that_comes_with_a_reload_is_taken(self):
        d = self.daemon(tenants=self.tenant("a"))
        self.assertEqual(self.of("a")["enforcer"], "temporal")
        self.verdict()
        self.reload(d, MPS + self.tenant("a"), lambda: self.of("a")["enforcer"] == "spatial")
        self.serving()
        self.assertEqual(self.sms("a")[0], 32)

    def test_what_cannot_be_is_one_line_with_what_can(self):
        self.verdict()
        self.daemon()
        ask = ("run", "--memory", "1GiB", "--mode")
        self.bad(self.ask(*ask, "spatial", "--compute", "25%", "--", "/bin/true"), 125, "name one of [mps] groups (it has g, h)")
        self.bad(self.ask(*ask, "spatial", "--compute", "25%", "--mps-group", "x", "--", "/bin/true"), 125, "x is not in [mps] groups: it has g, h")
        self.bad(self.ask(*ask, "spatial", "--mps-group", "g", "--", "/bin/true"), 125, "--compute")
        self.bad(self.ask(*ask, "spatial", "--mps-group", "g", "--compute", "1%", "--", "/bin/true"), 125, "ask for at least 6.07%")
        self.bad(self.ask(*ask, "spatial", "--mps-group", "g", "--compute", "25%+", "--", "/bin/true"), 125, "leave the + out")
        self.bad(self.ask(*ask, "slice", "--compute", "25%", "--", "/bin/true"), 125, "doctor --self-test")
        self.bad(self.ask(*ask, "sideways", "--compute", "25%", "--", "/bin/true"), 2, "auto, spatial, slice and temporal")
        self.bad(self.ask(*ask, "spatial", "--mps-group", "g", "--compute", "101%", "--", "/bin/true"), 2, "more than the whole device")
        self.bad(self.run_it("--memory", "1GiB", "--compute", "25%", "--mode", "spatial", "--", "/bin/true"), 125, "needs the daemon")
        self.good(self.ask(*ask, "spatial", "-q", "--mps-group", "g", "--compute", "75%", "--tenant", "p", "--", "/bin/true"))
        self.bad(self.ask(*ask, "spatial", "--mps-group", "g", "--compute", "50%", "--", "/bin/true"), 125, "25%")

    def test_a_configuration_that_cannot_be_is_refused(self):
        for text, part in ((self.tenant("a"), "g is not in [mps] groups"),
                           (MPS + self.tenant("a", "25%+", "spatial"), "leave the + out"),
                           ("[mps]\nenabled = false\ngroups = ['g']\n" + self.tenant("a", mode="spatial"), "[mps] enabled = true")):
            self.config.write_text(text)
            r = subprocess.run([BUILD / "bin" / "bulkheadd", "--check-config", "--config", str(self.config)], text=True, capture_output=True)
            self.assertEqual((r.returncode, len(r.stderr.splitlines())), (78, 1), r.stderr)
            self.assertIn(part, r.stderr)


class SelfTest(SpatialCase):
    def kept(self):
        try:
            return json.loads((self.dir / "sim" / "selftest.json").read_text())["gpus"]
        except OSError:
            return []

    def test_doctor_keeps_what_it_saw_with_its_evidence_and_the_daemon_takes_it(self):
        self.daemon(tenants=self.tenant("a"))
        self.assertEqual(self.of("a")["enforcer"], "temporal")
        self.assertIn("not tested with this driver", self.ask("doctor").stdout)
        r = self.ask("doctor", "--self-test", "--mps-control", str(FAKE))
        self.assertIn("done, and told to the daemon", r.stdout, r.stderr)
        self.assertIn("spatial works (132 SMs at 100%, 66 at 50%, 32 at 25%, 8 at 1%)", r.stdout)
        self.assertIn("green works (8 SMs used of 8 given)", r.stdout)
        self.assertIn("partitions no (lspart: Unknown command lspart)", r.stdout)
        # the simulator's slices cannot be set: the test must see that
        self.assertIn("slice no (0.1 ms beside 5 ms kernels: median ", r.stdout)
        gpu, = self.kept()
        self.assertEqual((gpu["sms"], gpu["sm_unit"], gpu["sm_least"], gpu["driver"]), (132, 2, 8, self.status()["driver"]))
        self.assertEqual((gpu["green_sms"], gpu["green_unit"]), (132, 8))
        self.until(lambda: self.of("a")["enforcer"] == "spatial", "the daemon takes the verdict")
        self.assertEqual(list(pathlib.Path("/tmp").glob("bulkhead-mps-??????/pipe/server.pid")), [], "its MPS is gone")
        self.bad(self.ask("run", "--memory", "1GiB", "--compute", "5%", "--mode", "slice", "--", "/bin/true"), 125, "time slices do not act")

    def test_percentages_that_do_not_bind_are_seen(self):
        liar = pathlib.Path(self.home.name) / "liar"
        # serves, but the driver knows nothing of it
        liar.write_text(f"#!/bin/sh\n{sys.executable} {FAKE} \"$@\"; c=$?; rm -f \"$CUDA_MPS_PIPE_DIRECTORY/bulkhead-sim-mps\"; exit $c\n")
        liar.chmod(0o755)
        self.ask("doctor", "--self-test", "--mps-control", str(liar))
        gpu, = self.kept()
        self.assertEqual(gpu["spatial"]["verdict"], "no", gpu)
        self.assertIn("132 at 50%", gpu["spatial"]["evidence"])

    def test_without_mps_what_needs_it_stays_unknown(self):
        for words in (("--no-mps",), ("--mps-control", "/nowhere")):
            self.ask("doctor", "--self-test", *words)
            gpu, = self.kept()
            self.assertEqual((gpu["spatial"]["verdict"], gpu["partitions"]["verdict"], gpu["green"]["verdict"]), ("unknown", "unknown", "works"))

    def test_a_gpu_in_use_is_not_tested(self):
        self.daemon()
        self.good(self.make("m", "1GiB"))
        worker = self.worker_of("m")
        r = self.ask("doctor", "--self-test", "--mps-control", str(FAKE))
        self.assertEqual(r.returncode, 1)
        self.assertIn(f"GPU 0 is not idle: process {worker.worker_pid} uses it", r.stdout)
        self.assertEqual(self.kept(), [])

    def test_the_daemon_tests_by_itself_only_if_told_to(self):
        self.daemon("[daemon]\nself_test = true\n", self.tenant("a"))
        self.told("self-tested")
        self.until(lambda: self.of("a")["enforcer"] == "spatial", "its verdict is in force")
        self.serving()


class Life(SpatialCase):
    def setUp(self):
        super().setUp()
        self.verdict()

    def test_mps_outlives_the_daemon_and_is_adopted_and_there_are_never_two(self):
        d = self.daemon(tenants=self.tenant("a"))
        self.serving()
        control = self.pid_of("nvidia-cuda-mps-control.pid")
        worker = self.worker_of("a")
        for end in (signal.SIGKILL, signal.SIGTERM):
            d.send_signal(end)
            d.wait(60)
            os.kill(control, 0)
            self.assertEqual(self.sms("a", run=("--no-daemon",))[0], 32, "clients come and go without the daemon")
            (self.dir / "control.sock").unlink(missing_ok=True)
            d = self.daemon(tenants=self.tenant("a"))
            self.serving()
            self.assertEqual(self.pid_of("nvidia-cuda-mps-control.pid"), control)
        self.told("mps-adopted")
        self.assertEqual(self.commands().count("-d"), 1)
        self.assertIsNone(worker.poll())

    def test_it_is_ended_when_the_configuration_no_longer_wants_it_and_nobody_is_in_it(self):
        d = self.daemon(tenants=self.tenant("a") + self.tenant("b", group="h"))
        self.serving("g")
        self.serving("h")
        worker = self.worker_of("a")
        self.reload(d, MPS + self.tenant("a"), lambda: self.of("b") is None)
        self.told("mps-stopped", "group h")
        self.assertNotIn("quit", self.commands("g"))
        worker.stdin.close()
        worker.stdin = None  # communicate() would flush it
        worker.wait(60)
        self.reload(d, MPS, lambda: self.of("a") is None)
        self.told("mps-stopped", "group g")

    def test_a_control_daemon_that_dies_is_told_and_started_again(self):
        self.daemon(tenants=self.tenant("a"))
        self.serving()
        first = self.pid_of("nvidia-cuda-mps-control.pid")
        os.kill(first, signal.SIGKILL)
        self.told("mps-failed", "is gone")
        self.until(lambda: self.commands().count("-d") == 2, "a second start")
        self.serving()

    def test_one_that_cannot_be_started_is_told_once_and_time_holds_its_tenants(self):
        home = self.home_of("g")
        home.mkdir(parents=True)
        (home / "fail").write_text("-d error\n")
        self.daemon(tenants=self.tenant("a"))
        self.told("mps-failed", "told to fail: -d")
        self.until(lambda: self.commands().count("-d") >= 2, "it is tried again")
        self.assertEqual(len(self.events("mps-failed")), 1)
        self.assertEqual(self.groups()["g"]["state"], "not there")
        (home / "fail").unlink()
        self.serving()

    def test_a_fault_is_told_with_the_groups_tenants_and_who_ended_before(self):
        self.daemon(tenants=self.tenant("a") + self.tenant("b"))
        self.serving()
        worker = self.worker_of("a")
        self.until(lambda: "get_server_status" in " ".join(self.commands()), "its servers are asked")
        (self.home_of("g") / "status").write_text("FAULT\n")
        os.kill(worker.worker_pid, signal.SIGKILL)
        event = self.told("mps-hit", "FAULT")
        self.assertEqual(event["severity"], "alarm")
        self.assertIn(f"after the end of process {worker.worker_pid} of tenant a", event["text"])
        self.assertIn("tenants a, b", event["text"])

    def test_rm_force_takes_clients_out_of_mps_and_kills_nobody(self):
        self.daemon(tenants=self.tenant("a"))
        self.serving()
        self.good(self.ask("run", "-q", "--memory", "1GiB", "--compute", "25%", "--mps-group", "g", "--tenant", "p", "--", "/bin/true"))
        self.assertEqual(self.of("p")["enforcer"], "spatial")
        worker, other = self.worker_of("p"), self.worker_of("a")
        self.until(lambda: self.of("p") and any(x["pid"] == worker.worker_pid for x in self.of("p")["processes"]), "it is known")
        server = self.pid_of("server.pid")
        self.good(self.ask("rm", "--force", "p"))
        self.told("mps-terminated", f"client {worker.worker_pid} ")
        self.assertIn(f"terminate_client {server} {worker.worker_pid}", self.commands())
        self.assertNotIn(f"terminate_client {server} {other.worker_pid}", self.commands())
        self.assertIsNone(worker.poll())

    def test_killed_at_any_point_of_a_start_there_is_one_in_the_end(self):
        home = self.home_of("g")
        home.mkdir(parents=True)
        for point in ("look", "-d"):
            with self.subTest(point):
                (home / "go").unlink(missing_ok=True)
                (home / "commands").unlink(missing_ok=True)
                (home / "fail").write_text(f"{point} wait\n")
                d = self.daemon(tenants=self.tenant("a"))
                self.until(lambda: point in self.commands(), "it is there")
                d.kill()
                d.wait()
                (self.dir / "control.sock").unlink()
                # what it began goes on beside what its successor begins
                self.daemon_and_kill(lambda: self.commands().count("look") >= 2 or self.commands().count("-d") >= 2)
                (home / "go").write_text("")
                d = self.daemon(tenants=self.tenant("a"))
                self.serving()
                self.assertEqual(self.sms("a")[0], 32)
                # a start that is refused takes a moment to end
                self.until(lambda: self.controls() == [self.pid_of("nvidia-cuda-mps-control.pid")], "one control daemon")
                d.kill()
                d.wait()
                (self.dir / "control.sock").unlink()
                self.end_mps()

    def daemon_and_kill(self, condition):
        d = self.daemon(tenants=self.tenant("a"))
        self.until(condition, "the second daemon looks too")
        d.kill()
        d.wait()
        (self.dir / "control.sock").unlink()

    def controls(self):
        """The control daemons of group g, by pid: what was started with -d, but for the servers, whose parents are such."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if f"CUDA_MPS_PIPE_DIRECTORY={self.home_of('g')}/pipe".encode() in (process / "environ").read_bytes().split(b"\0") and \
                        (process / "cmdline").read_bytes().split(b"\0")[-2:] == [b"-d", b""]:
                    found[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # gone meanwhile
        return [pid for pid, parent in found.items() if parent not in found]


if __name__ == "__main__":
    main()

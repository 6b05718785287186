"""What a share must survive, on the timed simulator: storms, many streams, host callbacks, captures in each mode, graphs updated in
place, kernels that never end, a kill in the middle of one. Every program ends by itself and as it would alone."""
import signal
import subprocess
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

CLIENT = str(BUILD / "tests" / "compute_client")


class Survive(Case):
    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM_TIMED"] = "1"

    def client(self, *words, share="25%", name="a", env=None):
        p = self.start("--tenant", name, "--memory", "4GiB", "--compute", share, "--", CLIENT, *map(str, words), env=env)
        self.assertEqual(p.stdout.readline(), "ready 1\n")
        p.stdin.write("go\n")
        p.stdin.flush()
        return p

    def time_of(self, name="a"):
        tenant, = (t for t in self.status()["tenants"] if t["name"] == name)
        return tenant["devices"][0]["time"]

    def done(self, *words):
        """Runs to its end under a quarter of the device; what it said."""
        p = self.client(*words)
        out = ""
        while not out.endswith("done 1\n"):
            line = p.stdout.readline()
            self.assertNotEqual(line, "", f"{words}: ended early: {out}")
            out += line
        p.communicate()
        self.assertEqual(p.returncode, 0, out)
        self.assertGreater(self.time_of()["used_ns"], 0, words)
        return {w[0]: int(w[1]) for w in (line.split() for line in out.splitlines())}

    def test_a_storm_of_sixteen_threads(self):
        self.done("storm", 50, 16, 60)
        self.assertGreater(self.time_of()["held_ns"], 0)

    def test_sixty_four_streams(self):
        self.done("streams", 100, 64, 640)
        self.assertGreater(self.time_of()["held_ns"], 0)

    def test_host_callbacks_each_called_once(self):
        self.assertEqual(self.done("callbacks", 200, 200)["called"], 200)

    def test_captures_in_each_mode_beside_a_thread_that_launches(self):
        for mode in (0, 1, 2):
            self.done("capture", mode, 100, 40)

    def test_graphs_updated_in_place(self):
        self.done("update", 200, 100)

    def test_a_long_kernel_is_charged_while_it_runs(self):
        p = self.client("one", 60_000_000, share="10%")
        self.assertEqual(p.stdout.readline(), "began 1\n")
        self.until(lambda: self.time_of()["rate_percent"] == 10, "its rate")
        region = self.dir / "tenants" / "a" / "region"
        tat = lambda: int.from_bytes(region.read_bytes()[1843200:1843208], "little")
        first = tat()
        self.until(lambda: tat() > first, "a debt that grows while the kernel runs")
        p.communicate(timeout=60)

    def test_a_profiled_process_is_charged_and_not_held(self):
        self.env["NVTX_INJECTION64_PATH"] = "/nowhere.so"
        self.done("streams", 500, 2, 200)
        self.assertEqual(self.time_of()["held_ns"], 0)

    def test_one_stream_is_shaped_under_the_tenants_share(self):
        p = self.client("hog", 1000, share="100%", env={"BULKHEAD_STREAM_COMPUTE": "1=25%"})
        self.assertEqual(p.stdout.readline(), "began 1\n")
        self.until(lambda: self.time_of()["launches"] >= 100, "a hundred kernels")
        out, _ = p.communicate(timeout=60)
        said = {w[0]: int(w[1]) for w in (line.split() for line in out.splitlines())}
        self.assertGreater(self.time_of()["held_ns"], 0)
        # a quarter of the time, the burst, and the first few of a kernel that is not known yet
        self.assertLessEqual(said["launches"] * 1e6, 0.27 * said["ns"] + 5e6 + 10e6)

    def test_a_malformed_stream_share_is_a_fault(self):
        p = self.start("--tenant", "a", "--memory", "1GiB", "--compute", "50%", "--", CLIENT, "one", "10",
                       env={"BULKHEAD_STREAM_COMPUTE": "lots"}, stderr=subprocess.DEVNULL)
        self.assertEqual(p.wait(60), 2)

    def test_a_persistent_kernel_ends_when_told(self):
        p = self.client("persist")
        self.assertEqual(p.stdout.readline(), "began 1\n")
        p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0)

    def test_a_share_comes_back_when_its_tenant_is_killed_in_a_kernel(self):
        p = self.start("--memory", "4GiB", "--compute", "75%", "--", CLIENT, "one", "60000000")
        self.assertEqual(p.stdout.readline(), "ready 1\n")
        p.stdin.write("go\n")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), "began 1\n")
        tenant, = self.status()["tenants"]
        wanted = ("--tenant", "b", "--memory", "1GiB", "--compute", "100%", "--", "/bin/true")
        self.assertEqual(self.run_it(*wanted).returncode, 125)
        subprocess.run(["kill", "-KILL", *[str(x["pid"]) for x in tenant["processes"]]], check=True)
        self.assertEqual(p.wait(60), 128 + signal.SIGKILL)
        self.until(lambda: self.run_it(*wanted).returncode == 0, "the share for another")


if __name__ == "__main__":
    main()

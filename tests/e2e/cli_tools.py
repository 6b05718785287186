"""status, doctor, sniff, demo; the calibration file; races of several `run`s; the sampler."""
import json
import os
import signal
import subprocess

from cli_case import BULKHEAD, BUILD, GIB, Case, main


class Status(Case):
    def test_kind_with_nothing_there(self):
        r = self.call("status")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertIn("No tenants", r.stdout)
        self.assertFalse(self.dir.joinpath("tenants").exists())  # it changes nothing

    def test_the_schema(self):
        self.worker("--tenant", "a", "--memory", "2GiB")
        s = self.status()
        self.assertEqual(s["schema"], 1)
        self.assertEqual(sorted(s), ["audit", "boottime_s", "condition", "daemon", "directory", "driver", "gpus", "mps_groups", "nvml", "problems", "schema",
                                     "simulated", "strays", "tenants"])
        self.assertIsNone(s["strays"])  # no daemon looks
        self.assertEqual(sorted(s["tenants"][0]),
                         ["allocs", "devices", "enforcer", "ephemeral", "faults", "frees", "mode",
                          "mps_group", "name", "on_fault", "overcommitted", "partition", "priority", "processes", "refused", "sampler_beat_s", "uncovered"])
        self.assertEqual(sorted(s["tenants"][0]["devices"][0]),
                         ["context_bytes", "counted", "dead_bytes", "free_bytes", "limit_bytes", "other_bytes", "streams", "time", "total_bytes",
                          "used_bytes", "uuid"])
        self.assertEqual(s["gpus"][0]["promised_bytes"], 2 * GIB)
        self.assertTrue(s["simulated"])

    def test_figures(self):
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        filled = int(self.tell(w, "fill")[1])
        t = self.status()["tenants"][0]
        d = t["devices"][0]
        self.assertEqual(d["limit_bytes"], 2 * GIB)
        self.assertEqual(d["used_bytes"], filled + d["other_bytes"])
        self.assertEqual(d["free_bytes"], d["limit_bytes"] - d["used_bytes"])
        self.assertGreaterEqual(t["refused"], 1)
        self.assertEqual(t["processes"][0]["pid"], w.worker_pid)

    def test_eighty_columns(self):
        w = self.worker("--tenant", "a" * 63, "--memory", "2GiB")
        self.tell(w, "fill")
        for line in self.call("status").stdout.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_one_broken_region_does_not_hide_the_others(self):
        for name in "abc":
            self.assertEqual(self.run_it("--tenant", name, "--memory", "1GiB", "--", "/bin/true").returncode, 0)
        os.truncate(self.dir / "tenants" / "b" / "region", 100)
        r = self.call("status", "--json")
        s = json.loads(r.stdout)
        self.assertEqual(r.returncode, 1)
        self.assertEqual([t["name"] for t in s["tenants"]], ["a", "c"])
        self.assertEqual([p["tenant"] for p in s["problems"]], ["b"])


class Doctor(Case):
    def checks(self, **env):
        r = self.call("doctor", "--json", env=env)
        out = json.loads(r.stdout)
        self.assertEqual(out["schema"], 1)
        self.assertEqual(r.returncode, 0 if out["usable"] else 1)
        return r.returncode, {c["check"]: c for c in out["checks"]}

    def test_good_on_the_simulator(self):
        code, checks = self.checks()
        self.assertEqual(code, 0, checks)
        self.assertEqual(checks["library"]["verdict"], "ok")
        self.assertIn("simulated", checks["libcuda"]["found"])

    def test_a_rival_is_found(self):
        code, checks = self.checks(LD_PRELOAD="/nowhere/libvgpu.so")
        self.assertEqual((code, checks["other limiters"]["verdict"]), (1, "bad"))

    def test_hidden_gpus_are_found(self):
        code, checks = self.checks(CUDA_VISIBLE_DEVICES="99")
        self.assertEqual((code, checks["visible GPUs"]["verdict"]), (1, "bad"))
        self.assertNotEqual(checks["visible GPUs"]["fix"], "")

    def test_a_broken_region_is_named(self):
        self.run_it("--tenant", "a", "--memory", "1GiB", "--", "/bin/true")
        os.truncate(self.dir / "tenants" / "a" / "region", 100)
        code, checks = self.checks()
        self.assertEqual((code, checks["region"]["fix"]), (0, "remove it: bulkhead rm a"))


class Calibration(Case):
    def file(self):
        return self.dir / "sim" / "charge.json"

    def test_measured_once(self):
        self.run_it("--memory", "1GiB", "--", "/bin/true")
        first = json.loads(self.file().read_text())
        self.assertEqual(first["schema"], 1)
        gpu = first["gpus"][0]
        self.assertEqual(gpu["context_bytes"], 543162368)  # the profile's figure
        self.assertEqual(gpu["alloc_granularity"], 2 << 20)
        self.assertEqual(gpu["pool_granularity"], 32 << 20)
        inode = self.file().stat().st_ino
        self.run_it("--memory", "1GiB", "--", "/bin/true")
        self.assertEqual(self.file().stat().st_ino, inode)  # not written again

    def test_a_spoiled_file_is_replaced(self):
        for text in ("", "{", '{"schema": 2, "gpus": []}', '{"schema": 1, "gpus": 7}', "[" * 10000, "\0" * 100):
            self.file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.dir.chmod(0o700)
            self.file().write_text(text)
            r = self.run_it("--memory", "1GiB", "--", "/bin/true")
            self.assertEqual((r.returncode, r.stderr), (0, ""), text[:20])
            self.assertEqual(len(json.loads(self.file().read_text())["gpus"]), 1)

    def test_it_reaches_the_region(self):
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        self.assertEqual(self.status()["tenants"][0]["devices"][0]["context_bytes"], 543162368)


class Together(Case):
    def test_several_runs_make_one_tenant(self):
        runs = [self.start("--tenant", "a", "--memory", "2GiB", "--", "/bin/true") for _ in range(8)]
        self.assertEqual([p.wait() for p in runs], [0] * 8)
        self.assertEqual(len(self.status()["tenants"]), 1)

    def test_the_sum_holds_in_a_race(self):
        # 139.8 GiB: of ten that ask for 30 GiB at once exactly four fit.
        runs = [self.start("--tenant", f"t{i}", "--memory", "30GiB", "--", "/bin/true", stderr=subprocess.DEVNULL)
                for i in range(10)]
        codes = sorted(p.wait() for p in runs)
        self.assertEqual(codes, [0] * 4 + [125] * 6)
        self.assertEqual(self.status()["gpus"][0]["promised_bytes"], 120 * GIB)

    def test_what_the_dead_held_goes_to_the_living(self):
        a = self.worker("--tenant", "a", "--memory", "2GiB")
        b = self.worker("--tenant", "a")
        first = int(self.tell(a, "fill")[1])
        self.assertEqual(self.tell(b, "fill")[2], "2")
        os.kill(a.worker_pid, signal.SIGKILL)
        self.assertEqual(a.wait(), 137)
        # b was refused just now: it looks for the dead again at the next tick of the coarse clock.
        taken = 0

        def take():
            nonlocal taken
            taken += int(self.tell(b, "fill")[1])
            return taken >= first

        self.until(take, "b has what a had")
        d = self.status()["tenants"][0]["devices"][0]
        self.assertLessEqual(d["used_bytes"], 2 * GIB)


class Sampler(Case):
    def test_it_beats_and_stops(self):
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        self.until(lambda: self.status()["tenants"][0]["sampler_beat_s"] > 0, "a beat")
        w.communicate()
        self.assertEqual(self.status()["tenants"][0]["sampler_beat_s"], 0)

    def test_another_run_takes_over(self):
        a = self.worker("--tenant", "a", "--memory", "2GiB")
        self.until(lambda: self.status()["tenants"][0]["sampler_beat_s"] > 0, "a beat")
        b = self.worker("--tenant", "a")
        a.communicate()
        self.until(lambda: self.status()["tenants"][0]["sampler_beat_s"] > 0, "a beat of the other")
        b.communicate()
        self.assertEqual(self.status()["tenants"][0]["sampler_beat_s"], 0)


    def corrects(self, calibrated_bytes):
        """A process whose context was booked with the wrong figure; NVML's figure must reach its books."""
        self.run_it("--memory", "1GiB", "--", "/bin/true")
        file = self.dir / "sim" / "charge.json"
        kept = json.loads(file.read_text())
        real = kept["gpus"][0]["context_bytes"]
        kept["gpus"][0]["context_bytes"] = calibrated_bytes
        file.write_text(json.dumps(kept))
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        self.until(lambda: self.status()["tenants"][0]["devices"][0]["other_bytes"] == real, "NVML's figure in the books")
        filled = int(self.tell(w, "fill")[1])
        self.assertLessEqual(filled + real, 2 * GIB)
        self.assertGreater(filled + real + (2 << 20), 2 * GIB)

    def test_too_little_booked_is_raised(self):
        self.corrects(100 << 20)

    def test_too_much_booked_is_lowered(self):
        self.corrects(900 << 20)


class Sniff(Case):
    def test_it_lists_what_is_resolved(self):
        script = ("import ctypes; l = ctypes.CDLL('libcuda.so.1'); l.cuInit; l.cuMemAlloc_v2; l.cuDeviceGetName\n"
                  "try: l.cuNoSuchThing\nexcept AttributeError: pass")
        r = self.call("sniff", "--", "/usr/bin/python3", "-c", script)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("names resolved", r.stderr)
        self.assertIn("1 that the driver lacks", r.stderr)

    def test_exit_codes(self):
        self.assertEqual(self.call("sniff", "--", "/bin/sh", "-c", "exit 5").returncode, 5)
        self.assertEqual(self.call("sniff", "--", "no-such-command").returncode, 127)
        self.assertEqual(self.call("sniff").returncode, 2)


class Demo(Case):
    def test_all_checks_hold(self):
        r = self.call("demo")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertIn("simulated driver", r.stdout)
        self.assertRegex(r.stdout, r"All \d+ checks held")
        self.assertNotIn("\033", r.stdout)  # no colour into a pipe


if __name__ == "__main__":
    main()

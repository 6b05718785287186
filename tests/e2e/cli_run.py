"""bulkhead run: exit codes, what it hands over, bad input, signals."""
import json
import os
import pathlib
import signal
import socket
import subprocess

from cli_case import BULKHEAD, GIB, Case, main


class ExitCodes(Case):
    def code(self, *command):
        return self.run_it("--memory", "1GiB", "--", *command).returncode

    def test_the_commands_own(self):
        self.assertEqual(self.code("/bin/true"), 0)
        self.assertEqual(self.code("/bin/false"), 1)
        self.assertEqual(self.code("/bin/sh", "-c", "exit 42"), 42)

    def test_a_signal_is_128_and_its_number(self):
        self.assertEqual(self.code("/bin/sh", "-c", "kill -9 $$"), 137)
        self.assertEqual(self.code("/bin/sh", "-c", "kill -TERM $$"), 143)

    def test_not_executable_is_126(self):
        r = self.run_it("--memory", "1GiB", "--", "/etc/passwd")
        self.assertEqual(r.returncode, 126)
        self.assertIn("/etc/passwd", self.one_line(r.stderr))
        self.assertEqual(self.code("/"), 126)

    def test_not_found_is_127(self):
        r = self.run_it("--memory", "1GiB", "--", "no-such-command-here")
        self.assertEqual(r.returncode, 127)
        self.assertIn("no-such-command-here", self.one_line(r.stderr))

    def test_usage_is_2(self):
        for words in ([], ["run"], ["run", "--memory", "1GiB"], ["run", "--memory", "1GiB", "--"], ["frobnicate"],
                      ["run", "--memroy", "1GiB", "--", "true"], ["run", "--on-fault", "maybe", "--", "true"],
                      ["run", "--", "true"], ["status", "--", "true"], ["rm"]):
            r = self.call(*words)
            self.assertEqual(r.returncode, 2, words)
            self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)

    def test_the_command_needs_no_dashes(self):
        r = self.run_it("--memory", "1GiB", "/bin/sh", "-c", "exit 7")
        self.assertEqual(r.returncode, 7)

    def test_options_after_dashes_are_the_commands(self):
        r = self.run_it("--memory", "1GiB", "--", "/bin/echo", "--memory", "junk", "--help")
        self.assertEqual((r.returncode, r.stdout), (0, "--memory junk --help\n"))

    def test_version(self):
        r = self.call("--version")
        self.assertEqual((r.returncode, r.stdout), (0, "bulkhead 0.1.0\n"))


class Words(Case):
    """Values that are missing or stand where the grammar has none: one line that says what to write."""
    def told(self, *words, has):
        r = self.call(*words)
        self.assertEqual(r.returncode, 2, (words, r.stderr))
        self.assertIn(has, self.one_line(r.stderr), words)
        self.assertFalse(self.dir.joinpath("tenants").exists(), words)  # nothing was run

    def test_every_option_of_every_command(self):
        grammar = json.loads(self.call("__describe").stdout)
        seen = 0
        for command in grammar["commands"]:
            c = command["name"]
            front = [c, *("x" for o in command["options"] if o["positional"])]
            bare_is_fine = c in ("run", "sniff") or len(front) > 1
            for o in command["options"]:
                name = o["names"][-1]
                if o["positional"] or name == "--help":
                    continue
                seen += 1
                if o["value"]:
                    self.told(*front, name, has=f"{name} needs a value: write {name}=")
                    self.told(*front, f"{name}=", has=f"{name}= needs a value: write {name}=")
                    self.told(*front, name, name, "1", has=f"{name} needs a value")
                    self.told(*front, f"{name}=1", name, "1", has=f"{name} is there twice")
                elif o["optional_value"]:
                    value = "5s" if name == "--wait" else "h200"
                    self.told(c, name, value, has=f"{name} takes its value with '=': write {name}={value}")
                    self.told(*front, f"{name}=", has=f"{name}= needs a value")
                else:
                    self.told(*front, f"{name}=yes", has=f"{name} takes no value: write {name}")
                    if not bare_is_fine:
                        self.told(c, name, "x", has=f"{name} takes no value: leave 'x' out")
        self.assertGreater(seen, 30)

    def test_run_where_a_command_stands_behind(self):
        self.told("run", "--sim", "h200", "--memory", has="write --sim=h200 (or -- before a command h200)")
        self.told("run", "--sim", "h200", "--memory", "1GiB", "--", "true", has="write --sim=h200;")
        self.told("run", "--sim", "other", "--memory", "1GiB", "--", "true", has="write --sim=other;")
        self.told("run", "-q", "x", "--memory=1GiB", "--", "true", has="-q takes no value: leave 'x' out")

    def test_a_command_is_not_taken_for_a_value(self):
        for words in (["--memory=1GiB", "-q", "--sim", "/bin/echo", "--sim", "h200"],
                      ["--memory=1GiB", "-q", "--sim=h200", "--", "/bin/echo", "--sim", "h200"]):
            r = self.call("run", *words)
            self.assertEqual((r.returncode, r.stdout), (0, "--sim h200\n"), r.stderr)


class BadInput(Case):
    def refused(self, code, *words, env=None, has=()):
        r = self.run_it(*words, "--", "/bin/true", env=env)
        self.assertEqual(r.returncode, code, r.stderr)
        line = self.one_line(r.stderr)
        for part in has:
            self.assertIn(part, line)
        return line

    def test_malformed_sizes(self):
        for size in ("10XB", "-1GiB", "ten", "10GiB,", "0", "150%", "99999999999TiB"):
            self.refused(2, f"--memory={size}", has=[size, "10GiB"])

    def test_a_size_without_a_unit_is_too_small(self):
        self.refused(125, "--memory", "10", has=["10 B", "10GiB"])

    def test_malformed_variables_are_named(self):
        self.refused(125, env={"BULKHEAD_MEMORY": "junk"}, has=["BULKHEAD_MEMORY"])
        self.refused(125, env={"BULKHEAD_MEMORY_3": "junk"}, has=["BULKHEAD_MEMORY_3"])
        self.refused(125, env={"CUDA_DEVICE_MEMORY_LIMIT_0": "junk"}, has=["CUDA_DEVICE_MEMORY_LIMIT_0"])

    def test_a_bad_tenant_name(self):
        for name in ("../x", "A", "a/b", "a" * 64, "-a"):
            self.refused(2, f"--tenant={name}", "--memory=1GiB", has=["is not a name"])
            self.refused(125, "--memory=1GiB", env={"BULKHEAD_TENANT": name}, has=["is not a name"])
        self.assertFalse((self.dir.parent / "x").exists())

    def test_a_quota_over_the_device_says_the_sum(self):
        line = self.refused(125, "--memory", "200GiB", has=["200 GiB", "139.8 GiB", "--overcommit"])
        self.assertIn("promised", line)
        r = self.run_it("--memory", "200GiB", "--overcommit", "--", "/bin/true")
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_the_sum_of_all_tenants_counts(self):
        self.assertEqual(self.run_it("--tenant", "a", "--memory", "100GiB", "--", "/bin/true").returncode, 0)
        self.refused(125, "--memory", "40GiB", has=["40 GiB", "100 GiB", "promised"])
        self.assertEqual(self.run_it("--memory", "39GiB", "--", "/bin/true").returncode, 0)

    def test_the_refusal_names_the_gpu_as_the_command_sees_it(self):
        self.refused(125, "--memory", "1=200GiB", env={"BULKHEAD_SIM": "h200x2"}, has=["on GPU 1 "])

    def test_a_gpu_that_is_not_there(self):
        self.refused(125, "--memory", "1GiB,3=2GiB", has=["GPU 3"])

    def test_no_visible_gpu(self):
        for visible in ("", "-1", "99"):
            self.refused(125, "--memory=1GiB", env={"CUDA_VISIBLE_DEVICES": visible}, has=["CUDA_VISIBLE_DEVICES"])

    def test_a_missing_parent_directory(self):
        self.refused(125, "--memory=1GiB", env={"BULKHEAD_DIR": str(self.dir / "no" / "such")}, has=["no/such"])

    def test_a_relative_directory(self):
        self.refused(125, "--memory=1GiB", env={"BULKHEAD_DIR": "here"}, has=["absolute"])

    def test_a_directory_others_may_write(self):
        self.dir.mkdir()
        self.dir.chmod(0o777)
        self.refused(125, "--memory=1GiB", has=[str(self.dir), "nobody else may write"])

    def test_a_directory_that_is_a_link(self):
        (self.dir.parent / "real").mkdir()
        self.dir.symlink_to(self.dir.parent / "real")
        self.refused(125, "--memory=1GiB", has=[str(self.dir)])

    def test_a_directory_that_cannot_be_written(self):
        (self.dir.parent / "ro").write_text("a file, not a directory")
        self.refused(125, "--memory=1GiB", env={"BULKHEAD_DIR": str(self.dir.parent / "ro" / "d")}, has=["ro/d"])

    def test_no_libcuda(self):
        env = {"BULKHEAD_SIM": ""}
        if subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout.find("libcuda.so.1") >= 0:
            self.skipTest("this machine has a driver")
        self.refused(125, "--memory=1GiB", env=env, has=["libcuda.so.1", "--sim"])

    def daemon_socket(self, listening):
        self.dir.mkdir(mode=0o700)
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(s.close)
        s.bind(str(self.dir / "control.sock"))
        if listening:
            s.listen()

    def test_working_alone_is_said_once(self):
        r = self.call("run", "--memory=1GiB", "--", "/bin/true")
        self.assertEqual(r.returncode, 0)
        self.assertIn("no daemon", self.one_line(r.stderr))
        r = self.call("run", "-q", "--memory=1GiB", "--", "/bin/true")
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_a_silent_daemon_elsewhere_is_no_obstacle(self):
        self.daemon_socket(listening=False)
        r = self.call("run", "--memory=1GiB", "--", "/bin/true")
        self.assertEqual(r.returncode, 0)
        self.assertIn("no daemon", self.one_line(r.stderr))

    def test_a_daemon_we_cannot_speak_with(self):
        self.daemon_socket(listening=True)
        r = self.call("run", "--memory=1GiB", "--", "/bin/true")
        self.assertEqual(r.returncode, 125)
        self.assertIn("--no-daemon", self.one_line(r.stderr))
        self.assertEqual(self.run_it("--memory=1GiB", "--", "/bin/true").returncode, 0)


class Regions(Case):
    def setUp(self):
        super().setUp()
        self.assertEqual(self.run_it("--tenant", "a", "--memory", "1GiB", "--", "/bin/true").returncode, 0)
        self.region = self.dir / "tenants" / "a" / "region"

    def spoiled(self):
        r = self.run_it("--tenant", "a", "--", "/bin/true")
        self.assertEqual(r.returncode, 125)
        self.assertIn("tenants/a/region", self.one_line(r.stderr))
        r = self.call("status")
        self.assertEqual(r.returncode, 1)
        self.assertIn("tenants/a/region", self.one_line(r.stderr))
        r = self.call("rm", "a")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertFalse(self.region.exists())

    def patch(self, offset, data):
        with open(self.region, "r+b") as f:
            f.seek(offset)
            f.write(data)

    def test_another_version(self):
        self.patch(8, b"\x09\x00")
        self.spoiled()

    def test_no_magic(self):
        self.patch(0, b"\xff" * 8)
        self.spoiled()

    def test_truncated(self):
        os.truncate(self.region, 5000)
        self.spoiled()

    def test_empty(self):
        os.truncate(self.region, 0)
        self.spoiled()

    def test_impossible_counts(self):
        self.patch(24, b"\xff" * 8)
        self.spoiled()

    def test_a_link_in_its_place(self):
        os.rename(self.region, self.region.with_name("else"))
        self.region.symlink_to("else")
        r = self.run_it("--tenant", "a", "--", "/bin/true")
        self.assertEqual(r.returncode, 125)
        self.one_line(r.stderr)

    def test_noise_behind_the_header_does_not_hurt_the_reader(self):
        size = self.region.stat().st_size
        self.patch(8192, os.urandom(size - 8192))
        r = self.call("status", "--json")
        self.assertIn(r.returncode, (0, 1))
        self.assertIn('"schema": 1', r.stdout)


class Tenants(Case):
    def test_a_named_tenant_is_joined_with_its_limits(self):
        self.assertEqual(self.run_it("--tenant", "a", "--memory", "2GiB", "--", "/bin/true").returncode, 0)
        self.assertEqual(self.run_it("--tenant", "a", "--", "/bin/true").returncode, 0)
        self.assertEqual(self.run_it("--tenant", "a", "--memory", "2048m", "--", "/bin/true").returncode, 0)
        for other in ("1GiB", "3GiB"):
            r = self.run_it("--tenant", "a", "--memory", other, "--", "/bin/true")
            self.assertEqual(r.returncode, 125)
            self.assertIn("bulkhead rm a", self.one_line(r.stderr))

    def test_a_tenant_that_is_not_there_needs_memory(self):
        r = self.run_it("--tenant", "a", "--", "/bin/true")
        self.assertEqual(r.returncode, 125)
        self.assertIn("--memory", self.one_line(r.stderr))

    def test_one_without_a_name_leaves_nothing(self):
        self.assertEqual(self.run_it("--memory", "2GiB", "--", "/bin/true").returncode, 0)
        self.assertEqual(list((self.dir / "tenants").iterdir()), [])
        self.assertEqual(self.run_it("--memory", "2GiB", "--", "no-such-command").returncode, 127)
        self.assertEqual(list((self.dir / "tenants").iterdir()), [])

    def test_rm(self):
        self.assertEqual(self.call("rm", "a").returncode, 1)
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        r = self.call("rm", "a")
        self.assertEqual(r.returncode, 1)
        self.assertIn("--force", self.one_line(r.stderr))
        w.communicate()
        self.assertEqual(self.call("rm", "a").returncode, 0)
        self.assertEqual(self.status()["tenants"], [])

    def test_the_environment_that_is_handed_over(self):
        r = self.run_it("--tenant", "a", "--memory", "2GiB", "--", "/usr/bin/env",
                        env={"LD_PRELOAD": "", "BULKHEAD_MEMORY": ""})
        env = dict(line.split("=", 1) for line in r.stdout.splitlines() if "=" in line)
        self.assertEqual(env["BULKHEAD_TENANT"], "a")
        self.assertEqual(env["BULKHEAD_DIR"], str(self.dir))
        self.assertTrue(env["LD_PRELOAD"].endswith("libbulkhead.so"))
        self.assertNotIn("BULKHEAD_MEMORY", env)

    def test_the_preload_is_put_in_front_once(self):
        r = self.run_it("--memory", "2GiB", "--", BULKHEAD, "run", "-q", "--no-daemon", "--", "/bin/sh", "-c",
                        "echo $LD_PRELOAD $BULKHEAD_TENANT")
        self.assertEqual(r.returncode, 0, r.stderr)
        preload, tenant = r.stdout.split()
        self.assertEqual(preload.count("libbulkhead.so"), 1)
        self.assertTrue(tenant.startswith("run-"))

    def test_hami_variables(self):
        for value, limit in (("2g", 2 * GIB), ("1.5g", GIB * 3 // 2), ("010g", 10 * GIB), ("3Gi", 3 * GIB)):
            w = self.worker_with({"CUDA_DEVICE_MEMORY_LIMIT": value})
            self.assertEqual(int(self.tell(w, "memory")[1]), limit, value)
            w.communicate()
        w = self.worker_with({"CUDA_DEVICE_MEMORY_LIMIT": "2g", "CUDA_DEVICE_MEMORY_LIMIT_0": "4g"})
        self.assertEqual(int(self.tell(w, "memory")[1]), 4 * GIB)
        w.communicate()

    def worker_with(self, env):
        self.env.update(env)
        return self.worker()

    def test_ours_before_hamis(self):
        w = self.worker_with({"CUDA_DEVICE_MEMORY_LIMIT": "2g", "BULKHEAD_MEMORY": "3GiB"})
        self.assertEqual(int(self.tell(w, "memory")[1]), 3 * GIB)

    def test_percent_of_the_device(self):
        w = self.worker("--memory", "50%")
        total = self.status()["tenants"][0]["devices"][0]["total_bytes"]
        self.assertEqual(int(self.tell(w, "memory")[1]), total // 2 // (2 << 20) * (2 << 20))

    def test_a_quota_for_each_gpu(self):
        self.env["BULKHEAD_SIM"] = "h200x2"
        self.worker("--tenant", "a", "--memory", "1GiB,1=2GiB")
        limits = [d["limit_bytes"] for d in self.status()["tenants"][0]["devices"]]
        self.assertEqual(limits, [GIB, 2 * GIB])

    def test_visible_devices_choose_the_gpus(self):
        self.env["BULKHEAD_SIM"] = "h200x2"
        uuids = [g["uuid"][4:] for g in self.status()["gpus"]]
        for visible, expected in (("1", [uuids[1]]), ("GPU-" + uuids[0][:12], [uuids[0]]), ("1,0", uuids[::-1])):
            self.env["CUDA_VISIBLE_DEVICES"] = visible
            w = self.worker("--tenant", "a", "--memory", "1GiB")
            self.assertEqual([d["uuid"] for d in self.status()["tenants"][0]["devices"]], expected)
            w.communicate()
            self.assertEqual(self.call("rm", "a").returncode, 0)


class Signals(Case):
    def test_they_reach_the_command(self):
        for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2"):
            p = self.start("--memory", "1GiB", "--", "/bin/bash", "-c",
                           f"trap 'echo got {name}; exit 9' {name}; echo up; while :; do read -r -t 1 x; done")
            self.assertEqual(p.stdout.readline(), "up\n")
            p.send_signal(getattr(signal, "SIG" + name))
            self.assertEqual(p.stdout.readline(), f"got {name}\n")
            self.assertEqual(p.wait(), 9)

    def test_stop_and_continue(self):
        # A group of its own under us: a stop signal has no effect in an orphaned process group (setpgid(2), signal(7)).
        p = self.start("--memory", "1GiB", "--", "/bin/sh", "-c", "echo $$; read x; echo $x", preexec_fn=os.setpgrp)
        child = int(p.stdout.readline())
        state = lambda pid: pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        p.send_signal(signal.SIGTSTP)
        self.until(lambda: state(child) == "T" and state(p.pid) == "T", "both stopped")
        p.send_signal(signal.SIGCONT)
        self.until(lambda: state(child) != "T" and state(p.pid) != "T", "both go on")
        self.assertEqual(p.communicate("on\n")[0], "on\n")

    def test_the_command_survives_the_death_of_run(self):
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        self.tell(w, "fill")
        w.kill()
        w.wait()
        self.assertEqual(int(self.tell(w, "memory")[1]), 2 * GIB)  # still under its quota
        tenant = self.status()["tenants"][0]
        self.assertEqual([p["pid"] for p in tenant["processes"] if not p["dead"]], [w.worker_pid])
        self.assertEqual(self.tell(w, "fill"), ["filled", "0", "2"])


if __name__ == "__main__":
    main()

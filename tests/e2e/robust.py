"""What others do to a region, a file system or a limit: whoever did not do it goes on, and says one line at most."""
import os
import pathlib
import resource
import signal
import subprocess
import unittest

from cli_case import BUILD, BULKHEAD, GIB, WATCHDOG_S, Case, main

CLIENT = str(BUILD / "tests" / "memory_client")
MIB = 1 << 20
OUT_OF_MEMORY, NOT_READY = 2, 802

SHRINKER = """
import os, sys, threading
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # from here on only `run` has the other end
path = os.environ["BULKHEAD_DIR"] + "/tenants/" + os.environ["BULKHEAD_TENANT"] + "/region"
full = os.stat(path).st_size
over = threading.Event()
def shrink():
    while not over.is_set():
        os.truncate(path, 0)
        os.truncate(path, full)
t = threading.Thread(target=shrink)
t.start()
sys.stdin.readline()
over.set()
t.join()
os.truncate(path, 0)
sys.exit(5)
"""

SCRIBBLER = """
import mmap, os, sys, threading
path = os.environ["BULKHEAD_DIR"] + "/tenants/" + os.environ["BULKHEAD_TENANT"] + "/region"
over = threading.Event()
def scribble():
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[:] = os.urandom(len(m))
        print("scribbled", flush=True)
        while not over.is_set():
            at = int.from_bytes(os.urandom(4), "little") % (len(m) - 65536)
            m[at:at + 65536] = os.urandom(65536)
            at = int.from_bytes(os.urandom(4), "little") % 8192
            m[at:at + 8] = os.urandom(8)
t = threading.Thread(target=scribble)
t.start()
sys.stdin.readline()
over.set()
t.join()
"""


class Clients(Case):
    def client(self, *words, command=(CLIENT,), ready=True, **more):
        """`bulkhead run WORDS -- memory_client`, with a context."""
        p = self.start(*words, "--", *command, **more)
        if ready:
            self.assertEqual(self.ask(p, "init"), 0)
        return p

    def ask(self, client, order):
        """The driver's answer; None: the client is gone."""
        try:
            client.stdin.write(order + "\n")
            client.stdin.flush()
        except BrokenPipeError:
            return None
        said = client.stdout.readline().split()
        return int(said[1]) if said else None

    def end(self, client):
        """No more orders: it ends by itself. Its exit code."""
        client.communicate(timeout=WATCHDOG_S)
        return client.returncode

    def make(self, name, size="4GiB"):
        self.assertEqual(self.run_it("--tenant", name, "--memory", size, "--", "/bin/true").returncode, 0)

    def unharmed(self, client):
        """A tenant of 4 GiB: its context, and the rest to the byte's granule."""
        self.assertEqual(self.ask(client, f"take plain {3 * GIB}"), 0)
        self.assertEqual(self.ask(client, f"take plain {GIB}"), OUT_OF_MEMORY)
        self.assertEqual(self.ask(client, "storm plain 2 300 7"), 0)
        self.assertEqual(self.ask(client, "free 0"), 0)
        self.assertEqual(self.end(client), 0)


class Shrinking(Clients):
    def test_run_outlives_a_tenant_that_shrinks_its_region_in_a_loop(self):
        other = self.client("--tenant", "b", "--memory", "4GiB")
        p = self.start("--tenant", "a", "--memory", "4GiB", "--", "python3", "-c", SHRINKER, stderr=subprocess.PIPE)
        line = p.stderr.readline()  # comes when the sampler met the hole; EOF when `run` died of it
        self.assertIn("tenants/a/region was cut short", line)
        self.assertEqual(p.communicate("\n", WATCHDOG_S)[1], "", "one line")
        self.assertEqual(p.returncode, 5)
        self.unharmed(other)

    def test_a_command_that_dies_of_its_own_region_is_told_as_such(self):
        other = self.client("--tenant", "b", "--memory", "4GiB")
        victim = self.client("--tenant", "a", "--memory", "4GiB", stderr=subprocess.PIPE)
        os.truncate(self.dir / "tenants" / "a" / "region", 0)
        self.assertIsNone(self.ask(victim, f"take plain {MIB}"))
        self.assertEqual(victim.wait(WATCHDOG_S), 128 + signal.SIGBUS)
        self.unharmed(other)
        r = self.call("rm", "a")
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_one_without_a_name_is_removed_all_the_same(self):
        p = self.start("--memory", "4GiB", "--", "python3", "-c", SHRINKER, stderr=subprocess.PIPE)
        self.assertIn("was cut short", p.stderr.readline())
        p.communicate("\n")
        self.assertEqual(p.returncode, 5)
        self.assertEqual(list((self.dir / "tenants").iterdir()), [])


class Scribbling(Clients):
    """All of a region is rubbish, and goes on changing, while a sibling works in it."""

    def test_a_sibling_neither_hangs_nor_crashes_and_others_notice_nothing(self):
        self.make("a")
        other = self.client("--tenant", "b", "--memory", "4GiB")
        sibling = self.client("--tenant", "a")
        self.assertEqual(self.ask(sibling, f"take plain {MIB}"), 0)
        # outside of `run`, whose supervisor would write there too
        scribbler = subprocess.Popen(["python3", "-c", SCRIBBLER], env={**self.env, "BULKHEAD_TENANT": "a"}, text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(scribbler.communicate)
        self.addCleanup(scribbler.kill)
        self.assertEqual(scribbler.stdout.readline(), "scribbled\n")
        for form in ("plain", "async", "managed", "vmm", "array"):
            self.assertIsNotNone(self.ask(sibling, f"storm {form} 2 40 3"), form)  # refused, granted: but answered
        for _ in range(20):
            self.assertIsNotNone(self.ask(sibling, f"take plain {MIB}"))
        self.assertIsNotNone(self.ask(sibling, "reset"))
        scribbler.communicate("\n")
        self.assertEqual(self.end(sibling), 0)
        self.unharmed(other)
        r = self.call("rm", "--force", "a")
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_a_process_that_lost_its_slot_to_rubbish_does_not_spin(self):
        self.make("a")
        sibling = self.client("--tenant", "a")
        region = self.dir / "tenants" / "a" / "region"
        pid = self.status()["tenants"][0]["processes"][0]["pid"]
        with open(region, "r+b") as f:
            f.seek(8192)
            f.write(os.urandom(1024 * 256))
        ticks = lambda: sum(int(x) for x in pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13])
        beats = lambda: int(next(t for t in pathlib.Path(f"/proc/{pid}/task").iterdir()
                                 if (t / "comm").read_text() == "bulkhead\n").joinpath("status").read_text()
                            .split("\nvoluntary_ctxt_switches:")[1].split()[0])
        self.until(lambda: beats() > 0, "its own thread runs")
        before, first = ticks(), beats()
        # It sleeps again and again instead of spinning: each sleep is a voluntary switch.
        self.until(lambda: beats() >= first + 2, "its own thread sleeps")
        sibling.kill()


class LeftOvers(Clients):
    """Ephemeral tenants whose processes are gone."""

    def by_variables(self, **env):
        """A driver-API program made a tenant by variables and preload, without `run`."""
        env = {**self.env, "LD_PRELOAD": str(BUILD / "lib" / "libbulkhead.so"), "LD_LIBRARY_PATH": str(BUILD / "sim"),
               **env}
        p = subprocess.Popen([CLIENT], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        return p

    def test_status_shows_a_tenant_made_by_variables_only_while_it_has_processes(self):
        p = self.by_variables(BULKHEAD_TENANT="v", BULKHEAD_MEMORY="1GiB")
        self.assertEqual(self.ask(p, "init"), 0)
        self.assertEqual([t["name"] for t in self.status()["tenants"]], ["v"])
        self.end(p)
        self.assertEqual(self.status()["tenants"], [])
        self.assertIn("No tenants", self.call("status").stdout)

    def test_run_sweeps_at_its_end(self):
        w = self.start("--tenant", "b", "--memory", "1GiB", "--", "/bin/sh", "-c", "echo up; read x; exit 0")
        self.assertEqual(w.stdout.readline(), "up\n")
        p = self.by_variables(BULKHEAD_TENANT="v", BULKHEAD_MEMORY="1GiB")
        self.assertEqual(self.ask(p, "init"), 0)
        self.end(p)
        self.assertTrue((self.dir / "tenants" / "v").exists())
        w.communicate("\n")
        self.assertFalse((self.dir / "tenants" / "v").exists())

    def test_a_process_that_ended_is_reaped_by_its_run(self):
        c = self.client("--tenant", "b", "--memory", "1GiB")
        self.assertEqual(len(self.status()["tenants"][0]["processes"]), 1)
        self.end(c)
        self.assertEqual(self.status()["tenants"][0]["processes"], [])

    # NVML attaches a process without a slot; its child inherits that, and joins at its own cuInit.
    DAEMON = """
import ctypes, os, sys
nvml, cuda = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.CDLL("libcuda.so.1")
gpu, memory = ctypes.c_void_p(), (ctypes.c_uint64 * 3)()
assert nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
assert nvml.nvmlDeviceGetMemoryInfo(gpu, memory) == 0 and memory[0] == 1 << 30, memory[0]
if os.fork() != 0:
    os._exit(0)
sys.stdin.readline()
print("answer", cuda.cuInit(0), flush=True)
"""

    def test_a_child_that_comes_after_its_tenant_went_is_not_let_in_uncounted(self):
        gate, out = os.pipe(), os.pipe()
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--no-daemon", "--memory", "1GiB", "--", "python3", "-c", self.DAEMON],
                             env=self.env, stdin=gate[0], stdout=out[1])
        os.close(gate[0])
        os.close(out[1])
        self.assertEqual(p.wait(WATCHDOG_S), 0)
        self.assertEqual(list((self.dir / "tenants").iterdir()), [])
        os.write(gate[1], b"\n")
        with os.fdopen(out[0]) as said:
            self.assertEqual(said.readline(), f"answer {NOT_READY}\n")
        os.close(gate[1])


class AddressSpace(Clients):
    """RLIMIT_AS leaves room for the program and the driver, not for the books."""

    def limited(self, on_fault):
        env = {**self.env, "LD_PRELOAD": str(BUILD / "lib" / "libbulkhead.so"), "LD_LIBRARY_PATH": str(BUILD / "sim"),
               "BULKHEAD_TENANT": "v", "BULKHEAD_MEMORY": "1GiB", "BULKHEAD_ON_FAULT": on_fault, "BULKHEAD_LOG": "stderr"}
        p = subprocess.run([CLIENT], env=env, text=True, capture_output=True, timeout=WATCHDOG_S,
                           input=f"init\ntake plain {MIB}\n",
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (100 * MIB, 100 * MIB)))
        self.assertIn("RLIMIT_AS", p.stderr)  # the cause it is about, not another
        return [int(line.split()[1]) for line in p.stdout.splitlines()]

    def test_it_is_refused_before_a_context_is_taken(self):
        self.assertEqual(self.limited("deny")[0], NOT_READY)
        self.assertEqual(self.status()["gpus"][0]["used_bytes"], self.idle_bytes())

    def test_or_passes_if_the_tenant_says_so(self):
        self.assertEqual(self.limited("open"), [0, 0])

    def idle_bytes(self):
        fresh = self.dir.parent / "fresh"
        return int(self.call("status", "--json", env={"BULKHEAD_DIR": str(fresh)}).stdout.split('"used_bytes": ')[1].split("\n")[0].rstrip(",}"))


class Simulator(Case):
    def test_a_bad_profile_is_one_line(self):
        for name in ("nonsense", "h200x99", "h200x0", "/no/such.toml"):
            r = self.call("run", "-q", "--no-daemon", "--memory", "1GiB", "--", "/bin/true", env={"BULKHEAD_SIM": name})
            self.assertEqual(r.returncode, 125)
            self.assertIn(name, self.one_line(r.stderr))
            r = self.call("status", env={"BULKHEAD_SIM": name})
            self.assertEqual(r.returncode, 1)
            self.assertIn(name, self.one_line(r.stderr))

    def test_a_program_without_run_hears_it_once(self):
        script = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); print([c.cuInit(0) for _ in range(3)])"
        r = subprocess.run(["python3", "-c", script], text=True, capture_output=True,
                           env={**self.env, "LD_LIBRARY_PATH": str(BUILD / "sim"), "BULKHEAD_SIM": "nonsense"})
        self.assertEqual(r.stdout, f"{[NOT_READY] * 3}\n")
        self.assertEqual(r.stderr, "bulkhead simulator: no such profile\n")


WORKER = """
import ctypes, sys
cu = ctypes.CDLL("libcuda.so.1")
context, p, n = ctypes.c_void_p(), ctypes.c_uint64(), 16 << 20
assert cu.cuInit(0) == 0 and cu.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cu.cuCtxSetCurrent(context) == 0 and cu.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t(2 * n)) == 0
for _ in range(int(sys.argv[1])):
    assert cu.cuMemcpyDtoDAsync_v2(p, ctypes.c_uint64(p.value + n), ctypes.c_size_t(n), None) == 0
print("ready", flush=True)
sys.stdin.read()
"""

# Alone in a pid namespace, so that it may choose the next pid.
OBSERVER = """
import ctypes, subprocess, sys
class Sample(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("at", ctypes.c_ulonglong)] + [(n, ctypes.c_uint) for n in ("sm", "m", "e", "d")]
ml, gpu = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
assert ml.nvmlInit_v2() == 0 and ml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
def percent(pid):
    n, all = ctypes.c_uint(64), (Sample * 64)()
    assert ml.nvmlDeviceGetProcessUtilization(gpu, all, ctypes.byref(n), ctypes.c_ulonglong(0)) == 0
    return [s.sm for s in all[:n.value] if s.pid == pid]
def look(copies):
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write("499")
    p = subprocess.Popen(["python3", "-c", sys.argv[1], copies], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\\n"
    print(p.pid, percent(500), flush=True)
    p.kill()
    p.wait()
look("8")
look("0")
"""

NAMESPACES = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "/bin/true"], capture_output=True).returncode == 0


@unittest.skipUnless(NAMESPACES, "needs root and a pid namespace of its own, to choose a pid")
class PidReuse(Case):
    def test_nvml_does_not_take_a_process_for_the_one_that_had_its_pid(self):
        env = {**self.env, "LD_LIBRARY_PATH": str(BUILD / "sim")}
        r = subprocess.run(["unshare", "-p", "--fork", "--mount-proc", "python3", "-c", OBSERVER, WORKER], env=env,
                           text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S)
        self.assertEqual(r.stdout.splitlines(), ["500 [0]", "500 [0]"], r.stderr)  # the second one did nothing


@unittest.skipUnless(NAMESPACES, "needs root and a mount namespace of its own, to mount a small tmpfs")
class FullFileSystem(Case):
    def on_tmpfs(self, size, script):
        """The directory in use is a tmpfs of `size`; `script` runs with it, as $D."""
        self.dir.mkdir()
        text = f'mount -t tmpfs -o size={size},mode=700 none "$D" && {script}'
        return subprocess.run(["unshare", "-m", "/bin/bash", "-c", text], env={**self.env, "D": str(self.dir), "B": BULKHEAD},
                              text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S)

    RUN = '"$B" run -q --no-daemon --tenant a --memory 1GiB -- /bin/true'

    def test_no_room_for_the_region(self):
        # the simulator's state and its measurements are there already; then a file takes what is left but 64 KiB
        r = self.on_tmpfs("8m", '"$B" run -q --no-daemon --memory 1GiB -- /bin/true && '
                          'left=$(($(stat -f -c "%a * %S" "$D") / 1024 - 64)) && '
                          'dd if=/dev/zero of="$D/filler" bs=1k count=$left status=none; '
                          f'{self.RUN}; echo rc $?; find "$D/tenants" -mindepth 1; "$B" status --json | grep -c \'"name": "a"\'; '
                          f'rm "$D/filler"; {self.RUN}; echo rc $?')
        self.assertEqual(r.stdout.splitlines(), ["rc 125", "0", "rc 0"], r.stderr)
        self.assertIn("no room for the region", self.one_line(r.stderr))

    def test_no_room_for_the_simulators_state(self):
        r = self.on_tmpfs("64k", f'{self.RUN}; echo rc $?; find "$D" -type f -size +0')
        self.assertEqual(r.stdout.splitlines(), ["rc 125"], r.stderr)
        self.assertIn("no room for the state file", self.one_line(r.stderr))

    def test_no_inode_left(self):
        r = self.on_tmpfs("8m,nr_inodes=12", '"$B" run -q --no-daemon --memory 1GiB -- /bin/true && '
                          'i=0; while : 2>/dev/null > "$D/f$i"; do i=$((i+1)); done 2>/dev/null; '
                          f'{self.RUN}; echo rc $?; find "$D/tenants" -mindepth 1')
        self.assertEqual(r.stdout.splitlines(), ["rc 125"], r.stderr)
        self.one_line(r.stderr)


if __name__ == "__main__":
    main()

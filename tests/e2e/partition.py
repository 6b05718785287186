"""Static MPS partitions end to end on the simulated driver, with a control program of our own (fake_mps_control.py) that has them. No driver
that has them was at hand: what is shown is the daemon's, run's and the library's part, against answers as others saw them."""
import base64
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from cli_case import BUILD, BULKHEAD, main
from spatial_case import FAKE, SpatialCase

# What a process of a tenant is told of the GPU, and its partition; a context is made. The words: variables it changes before.
PROGRAM = """
import ctypes, os, sys
for word in sys.argv[1:]:
    os.environ[word.split("=")[0]] = word.split("=")[1]
cu = ctypes.CDLL("libcuda.so.1")
n, context = ctypes.c_int(), ctypes.c_void_p()
assert cu.cuInit(0) == 0
assert cu.cuDeviceGetAttribute(ctypes.byref(n), 16, 0) == 0
made = cu.cuCtxCreate_v2(ctypes.byref(context), 0, 0)
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
print(made, n.value, (libc.getenv(b"CUDA_MPS_SM_PARTITION") or b"").decode(), (libc.getenv(b"CUDA_MPS_PIPE_DIRECTORY") or b"").decode(), flush=True)
"""
GROUP = "p"


class PartitionCase(SpatialCase):
    def setUp(self):
        super().setUp()
        self.control = pathlib.Path(self.home.name) / f"r590_{FAKE.name}"
        self.control.write_text(f"#!{sys.executable} -IS\n{FAKE.read_text()}")  # begins sooner than what a PATH has
        self.control.chmod(0o755)
        self.at = self.dir / "mps" / str(os.geteuid()) / f"{GROUP}+S"
        self.mps = f"[mps]\nenabled = true\ngroups = ['g', '{GROUP}']\npartition_groups = ['{GROUP}']\ncontrol = '{self.control}'\n"

    def verdict(self, **more):
        super().verdict(**{"partitions": {"verdict": "works", "evidence": "as a test says"}, "chunks": 16, "chunk_sms": 8, **more})

    def begin(self, tenants=""):
        return self.daemon(tenants=tenants, mps=self.mps)

    @staticmethod
    def divided(name, compute="25%"):
        return SpatialCase.tenant(name, compute, "partition", GROUP)

    def partition(self, name):
        return (self.of(name) or {}).get("partition")

    def stands(self, name):
        return self.until(lambda: (self.partition(name) or {}).get("id"), f"{name} has a partition")

    def listed(self):
        """ID -> multiprocessors, as the control daemon has them."""
        try:
            lines = (self.at / "pipe" / "bulkhead-sim-partitions").read_text().splitlines()
        except OSError:
            return {}
        return {line.split()[0]: int(line.split()[1]) for line in lines}

    def orders(self, begin=""):
        try:
            return [line for line in (self.at / "commands").read_text().splitlines() if line.startswith(begin)]
        except OSError:
            return []

    def control_says(self, *words):
        done = subprocess.run([self.control], input=" ".join(words) + "\n", text=True, capture_output=True, timeout=60,
                              env={**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(self.at / "pipe")})
        return done.stdout

    @staticmethod
    def bits(value):
        return int.from_bytes(base64.b64decode(value.split("/", 1)[1])[:2], "little")

    def program(self, *words, run, env=None):
        """(what making a context said, multiprocessors, partition, pipe directory) in a process of `run`."""
        r = subprocess.run([BULKHEAD, "run", "-q", *run, "--", sys.executable, "-c", PROGRAM, *words], text=True, timeout=60,
                           env={**self.env, **(env or {})}, capture_output=True, stdin=subprocess.DEVNULL)
        self.assertEqual(r.returncode, 0, r.stderr)
        said = r.stdout.rstrip("\n").split(" ")
        return int(said[0]), int(said[1]), said[2], said[3]


NEW = ("--memory", "1GiB", "--mode", "partition", "--mps-group", GROUP, "--compute")


class Division(PartitionCase):
    def test_each_tenant_has_multiprocessors_of_its_own_and_every_process_of_it_is_sent_there(self):
        self.verdict()
        self.begin(self.divided("a") + self.divided("b", "50%"))
        a, b = self.stands("a"), self.stands("b")
        self.assertEqual(self.listed(), {a: 32, b: 64})
        self.assertEqual(self.bits(a) & self.bits(b), 0, "disjoint")
        self.assertEqual((self.bits(a) | self.bits(b)).bit_count(), 12)
        pipe = str(self.at / "pipe")
        self.assertEqual(self.program(run=("--tenant", "a")), (0, 32, a, pipe))
        # what it would rather have is put back, before it starts and in the running program
        self.assertEqual(self.program("CUDA_MPS_SM_PARTITION=" + a, run=("--tenant", "b"), env={"CUDA_MPS_SM_PARTITION": a}), (0, 64, b, pipe))
        env = {**self.env, "LD_PRELOAD": str(BUILD / "lib" / "libbulkhead.so"), "LD_LIBRARY_PATH": str(BUILD / "sim"), "BULKHEAD_TENANT": "a"}
        r = subprocess.run([sys.executable, "-c", PROGRAM], env=env, text=True, timeout=60, capture_output=True)
        self.assertEqual(r.stdout.split(" ")[:3], ["0", "32", a], r.stderr)
        # nor does who has none get one by what a shell left behind
        left = {"CUDA_MPS_SM_PARTITION": a, "CUDA_MPS_PIPE_DIRECTORY": pipe}
        self.assertEqual(self.program(run=("--tenant", "c", "--memory", "1GiB"), env=left), (0, 132, "", ""))
        r = subprocess.run([sys.executable, "-c", PROGRAM], env={**env, **left, "BULKHEAD_TENANT": "c"}, text=True, timeout=60, capture_output=True)
        self.assertEqual(r.stdout.rstrip("\n").split(" "), ["0", "132", "", ""], r.stderr)
        self.assertEqual(self.partition("a"), {"id": a, "chunks": 4, "multiprocessors": 32, "refused": None})
        shown = self.ask("status").stdout
        self.assertIn(f"partition: 4 chunks, 32 multiprocessors ({a})", shown)
        self.assertIn("one failure domain: a, b", shown)
        self.assertIn("share of GPU 0: 25%, partition", shown)
        self.assertEqual(self.orders("-d"), ["-d -S"])
        # a share that is set: when nobody runs, another partition
        self.good(self.ask("set", "a", "--compute", "50%"))
        self.until(lambda: (self.partition("a") or {}).get("chunks") == 8, "it is changed")
        self.assertEqual(sorted(self.listed().values()), [64, 64])

    def test_it_is_made_at_admission_and_taken_away_after_the_last_process(self):
        self.verdict()
        self.begin()
        made, sms, value, pipe = self.program(run=("--tenant", "x", *NEW, "25%"))
        self.assertEqual((made, sms, pipe), (0, 32, str(self.at / "pipe")))
        self.assertEqual(self.orders("sm_partition add"), [f"sm_partition add {value.split('/')[0]} 4"])
        self.good(self.ask("rm", "x"))  # one that has a name stays until then
        self.told("mps-partition", "which was tenant x's, is taken away")
        worker = self.unnamed()
        name, = (t["name"] for t in self.status()["tenants"])
        self.assertEqual(self.listed(), {self.stands(name): 32})
        worker.stdin.close()
        worker.stdin = None  # communicate() would flush it
        worker.wait(60)
        self.until(lambda: not self.listed(), "its partition is gone with its last process")
        self.until(lambda: list((self.dir / "partitions").iterdir()) == [], "and from the books")

    def unnamed(self):
        p = subprocess.Popen([BULKHEAD, "run", "-q", *NEW, "25%", "--", BULKHEAD, "__demo-worker"], env=self.env, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline().split()[:1], ["ready"])
        return p


class Restart(PartitionCase):
    def test_a_daemon_that_comes_back_adopts_them_and_makes_no_second_one(self):
        self.verdict()
        d = self.begin(self.divided("a") + self.divided("b"))
        a, b = self.stands("a"), self.stands("b")
        worker = self.worker_of("a")
        d.kill()
        d.wait()
        (self.dir / "control.sock").unlink()
        # as if it had died between making it and writing it down
        stray = self.control_says("sm_partition", "add", a.split("/")[0], "2").split()[1]
        self.assertEqual(self.listed(), {a: 32, b: 32, stray: 16})
        self.begin(self.divided("a"))
        self.until(lambda: self.listed() == {a: 32}, "b, which is no longer declared, and the stray have gone")
        self.told("mps-partition", stray.split("/", 1)[1] + " of")
        self.assertEqual(self.partition("a")["id"], a)
        self.assertEqual(self.program(run=("--tenant", "a"))[:3], (0, 32, a))
        self.assertEqual(len(self.orders("sm_partition add")), 3, "a, b, and the stray")
        self.assertEqual(self.orders("-d"), ["-d -S"])
        self.assertIsNone(worker.poll())


class Refusal(PartitionCase):
    def test_no_room_is_one_line_with_what_is_free(self):
        self.verdict()
        self.begin(self.divided("a"))
        uuid = self.stands("a").split("/")[0]
        (self.at / "say").write_text("sm_partition Failed to fulfill the requested SM partition of 8 chunks, error CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION\n")
        self.bad(self.ask("run", *NEW, "50%", "--", "/bin/true"), 125,
                 f"MPS made no partition of 8 chunks of {uuid}: Failed to fulfill the requested SM partition of 8 chunks, error CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION; "
                 "12 of its 16 chunks are free: ask for at most 75%; or use temporal")
        self.told("mps-failed", "made no partition of 8 chunks")
        self.until(lambda: len(self.status()["tenants"]) == 1, "it is no tenant")
        (self.at / "say").unlink()
        self.assertEqual(self.program(run=(*NEW, "50%"))[:2], (0, 64))

    def test_what_is_asked_for_and_cannot_be_says_what_can(self):
        self.verdict()
        self.begin()
        ask = ("run", "--memory", "1GiB", "--mode")
        self.bad(self.ask(*ask, "partition", "--compute", "6%", "--mps-group", GROUP, "--", "/bin/true"), 125, "ask for at least 6.25%")
        self.bad(self.ask(*ask, "partition", "--compute", "25%", "--mps-group", "g", "--", "/bin/true"), 125, "not in [mps] partition_groups: it has p")
        self.bad(self.ask(*ask, "partition", "--compute", "25%+", "--mps-group", GROUP, "--", "/bin/true"), 125, "leave the + out")
        self.bad(self.ask(*ask, "spatial", "--compute", "25%", "--mps-group", GROUP, "--", "/bin/true"), 125, "use mode partition, or another group")
        self.bad(self.run_it("--memory", "1GiB", "--compute", "25%", "--mode", "partition", "--", "/bin/true"), 125, "needs the daemon")
        self.assertFalse((self.dir / "mps").exists(), "nothing was started")

    def test_an_answer_that_is_not_understood_is_no_partition(self):
        self.verdict()
        self.begin(self.divided("a"))
        a = self.stands("a")
        (self.at / "say").write_text("lspart Partition table v4: see --help\n")
        self.bad(self.ask("run", *NEW, "25%", "--", "/bin/true"), 125, "lspart said 'Partition table v4: see --help', which is not understood")
        self.told("mps-failed", "hands out no partitions: lspart said")
        self.assertEqual(len(self.orders("sm_partition")), 1, "a's, from before")
        self.assertEqual(self.program(run=("--tenant", "a"))[:3], (0, 32, a), "what stood stands")


class Verdict(PartitionCase):
    """`doctor --self-test`, by a copy of the command that has no library beside it, and so no test of slices, which takes seconds."""

    def test_it_works_only_where_it_was_seen_to_and_a_driver_without_it_says_why(self):
        without = {"verdict": "no", "evidence": "lspart: Unknown command \"lspart\""}  # as 580.159 was asked; spatial.py asks one that is like it
        self.verdict(partitions=without, chunks=0, chunk_sms=0)
        self.begin()
        self.bad(self.ask("run", *NEW, "25%", "--", "/bin/true"), 125, "the self-test saw that this driver has no partitions of GPU 0")
        self.assertIn("partitions no (lspart: Unknown command \"lspart\")", self.ask("doctor").stdout)
        self.assertFalse((self.dir / "mps").exists(), "nothing was started")
        home = pathlib.Path(self.home.name)
        (home / "bin").mkdir()
        (home / "sim").symlink_to(BUILD / "sim")
        shutil.copy(BULKHEAD, home / "bin" / "bulkhead")
        said = subprocess.run([home / "bin" / "bulkhead", "doctor", "--self-test", "--mps-control", self.control], text=True, timeout=60, env=self.env,
                              capture_output=True, stdin=subprocess.DEVNULL)
        self.assertIn("slice unknown (libbulkhead.so is not there)", said.stdout, said.stderr)
        gpu, = json.loads((self.dir / "sim" / "selftest.json").read_text())["gpus"]
        self.assertEqual((gpu["partitions"], gpu["chunks"], gpu["chunk_sms"]), ({"verdict": "works", "evidence":
                         "16 chunks of 8 SMs, 8 of 8 SMs used in 1 chunk, 64 of 64 SMs used in 8 chunks, none without one: cuDevicePrimaryCtxRetain answers 915"}, 16, 8))
        self.until(lambda: self.status()["gpus"][0]["self_tests"]["partitions"] == "works", "the daemon has the new one")
        self.assertEqual(self.program(run=(*NEW, "25%"))[:2], (0, 32))
        self.assertEqual(list(pathlib.Path("/tmp").glob("bulkhead-mps-??????/pipe/bulkhead-sim-partitions")), [], "its MPS is gone")


if __name__ == "__main__":
    main()

"""Idle time lent and given back, between real processes on the timed simulator. What must come is waited for; how fast it comes is the
bench's to say. Read from the regions: the rate in force and the sums."""
import mmap
import os
import signal
import struct
import subprocess

from cli_case import BUILD, BULKHEAD, main
from daemon_control import DaemonCase

COMPUTE = 1843200  # docs/formats/region.md
SUMS, RATE = COMPUTE + 128, COMPUTE + 192
CLIENT = str(BUILD / "tests" / "launch_client")
BURST_WINDOW_NS = 7_000_000


class Lending(DaemonCase):
    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM_TIMED"] = "1"

    def load(self, name, share, *words, kernel_us=500, ms=100_000):
        p = subprocess.Popen([BULKHEAD, "run", "-q", *words, "--tenant", name, "--memory", "4GiB", "--compute", share, "--",
                              CLIENT, "plain", str(kernel_us), str(ms)], env=self.env, text=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self.addCleanup(self.end, p)
        return p

    def end(self, p):
        """It and what it started."""
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
        p.communicate(timeout=60)

    def words(self, name):
        """used, borrowed; rate in force."""
        path = self.dir / "tenants" / name / "region"
        if not path.exists():
            return 0, 0, 0
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
            return *struct.unpack_from("<2Q", m, SUMS), *struct.unpack_from("<I", m, RATE)

    def until_rate(self, name, wanted, what):
        self.until(lambda: wanted(self.words(name)[2]), f"{what}: {self.words(name)}")

    def test_what_is_idle_is_lent_and_given_back(self):
        self.daemon()
        a = self.load("a", "25%+")
        self.until_rate("a", lambda r: r == 10_000, "a has the device for itself")
        self.until(lambda: self.words("a")[1] > 0, "what is borrowed is counted")
        b = self.load("b", "75%")
        self.until_rate("a", lambda r: r == 2_500, "b wants its part")
        self.until(lambda: self.words("b")[0] > 0, "b works")
        self.end(b)
        self.until_rate("a", lambda r: r == 10_000, "b is gone")
        self.end(a)

    def test_a_hard_cap_borrows_nothing(self):
        self.daemon()
        self.load("a", "25%")
        self.until(lambda: self.words("a")[0] > 200_000_000, "a works")
        used, borrowed, rate = self.words("a")
        self.assertEqual((borrowed, rate), (0, 2_500))

    def test_with_the_daemon_lending_ends_and_comes_again(self):
        daemon = self.daemon()
        self.load("a", "25%+")
        self.until_rate("a", lambda r: r == 10_000, "lent")
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        self.until_rate("a", lambda r: r == 2_500, "nobody says what is idle")
        self.daemon()
        self.until_rate("a", lambda r: r == 10_000, "lent again")

    def test_without_a_daemon_nobody_lends(self):
        p = self.load("a", "25%+", "--no-daemon", ms=2_000)
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0, err)
        said = dict(line.split() for line in out.splitlines())
        done, took = int(said["launches"]) * 500_000, int(said["ns"])
        self.assertLess(done, took / 4 + BURST_WINDOW_NS + took / 50, "more than its floor")


if __name__ == "__main__":
    main()

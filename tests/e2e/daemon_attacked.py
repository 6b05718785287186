"""What befalls a daemon: a directory or a state directory without room, a stopped child, rubbish on its socket. It goes on, says so in
one line, and starts again. The full file systems are tmpfs of their own, so that part needs root."""
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, WATCHDOG_S, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import Node, ask, ready, until  # noqa: E402

MIB = 1 << 20
MOUNTS = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
if not MOUNTS:
    print("SKIPPED, NOT SHOWN: full file systems; only root may mount them", file=sys.stderr)


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Attacked(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.addCleanup(self.stop)

    def stop(self):
        if self.node.process is None:
            return
        self.assertIsNone(self.node.process.poll(), "the daemon had ended by itself")
        self.assertEqual(self.node.stop(), 0)

    def mount(self, at, size):
        at.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(at)], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", str(at)])

    @staticmethod
    def fill(file):
        """All the room there is, to the last page."""
        with open(file, "wb", buffering=0) as f:
            try:
                while f.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass

    def make(self, tenant):
        return self.node.call("run", "-q", "--tenant", tenant, "--memory", "1GiB", "--", "/bin/true")

    def told(self, kind):
        return [e for e in map(json.loads, self.node.call("events", "--json").stdout.splitlines()) if e["kind"] == kind]


@unittest.skipUnless(MOUNTS, "only root may mount")
class Full(Attacked):
    def test_on_a_full_directory_it_goes_on_and_starts_again(self):
        self.mount(self.dir, "8m")
        self.node.start()
        self.assertEqual(self.make("a").returncode, 0)
        p = self.node.run("serve", tenant="a", memory=None)
        ready(p)
        self.fill(self.dir / "filled")
        refused = self.make("b")
        self.assertEqual(refused.returncode, 125)
        self.assertIn("no room", self.one_line(refused.stderr))
        self.assertEqual(self.node.call("set", "a", "--memory", "2GiB").returncode, 0)
        self.assertEqual((ask(p, f"take {MIB}"), ask(p, "total")), (1, 2 << 30))
        self.assertTrue(self.node.kill())
        self.assertEqual(ask(p, f"take {MIB}"), 1)
        self.node.start()  # by the room that it kept
        self.assertEqual(ask(p, f"take {MIB}"), 1)
        self.assertEqual(len(self.node.status("a")["processes"]), 1)
        # without that room it says what it lacks, and starts when there is some
        p.communicate(timeout=WATCHDOG_S)  # a page that somebody maps is room that comes back later
        self.assertTrue(self.node.kill())
        (self.dir / "node.spare").unlink(missing_ok=True)
        self.fill(self.dir / "filled more")
        said = subprocess.run([BUILD / "bin" / "bulkheadd", "--config", str(self.node.config), "--sim", "h200"], env=self.env, text=True,
                              capture_output=True, timeout=WATCHDOG_S)
        self.assertEqual(said.returncode, 1)
        self.assertIn("no room for the node page", said.stderr)
        self.assertEqual(len(said.stderr.splitlines()), 1, said.stderr)
        (self.dir / "filled").unlink()
        self.node.start()
        self.assertEqual(self.make("b").returncode, 0)

    def test_without_room_for_its_state_it_goes_on_and_tells(self):
        self.mount(self.dir / "state", "1m")
        self.node.start()
        filled = self.dir / "state" / "filled"
        self.fill(filled)
        count = 0
        while not self.told("store-failed"):  # a page of the file may have room for some lines
            self.assertLess(count, 100)
            self.assertEqual(self.make(f"t{count}").returncode, 0)
            count += 1
        self.assertEqual(self.make("after").returncode, 0)
        filled.unlink()
        until(lambda: self.told("store-recovered"), "it writes again")
        kept = (self.dir / "state" / "events.jsonl").read_text()
        until(lambda: "tenant after registered" in (self.dir / "state" / "events.jsonl").read_text(), f"what had waited is written: {kept}")


class Beset(Attacked):
    def test_a_stopped_child_holds_nothing_up(self):
        self.node.start()
        self.assertEqual(self.node.metric("bulkhead_up"), 1)
        child = [pid for pid in self.node.processes() if pid != self.node.process.pid]
        self.assertEqual(len(child), 1)
        os.kill(child[0], signal.SIGSTOP)
        self.assertEqual(self.make("a").returncode, 0)
        self.assertEqual(self.node.call("set", "a", "--memory", "2GiB").returncode, 0)
        self.assertEqual(self.node.status("a")["devices"][0]["limit_bytes"], 2 << 30)
        self.assertEqual(self.node.stop(), 0)
        self.node.process = None
        until(lambda: not pathlib.Path(f"/proc/{child[0]}/fd/0").exists(), "the child has gone with it")

    def test_rubbish_on_its_socket_costs_only_who_sends_it(self):
        self.node.start()
        self.assertEqual(self.make("a").returncode, 0)
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}", file=sys.stderr)
        rng = random.Random(seed)
        for i in range(300):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                s.connect(str(self.dir / "control.sock"))
                size = rng.choice((0, 1, 4, 16, 64, 300, 4096, 60000))
                held = [os.open("/dev/null", os.O_RDONLY) for _ in range(rng.randrange(4))]
                try:
                    socket.send_fds(s, [rng.randbytes(size)], held)
                except OSError:
                    pass  # it had closed already, or takes no message of that size
                for fd in held:
                    os.close(fd)
        until(lambda: (self.node.metric("bulkhead_requests_malformed_total") or 0) > 100, "they are counted")
        self.assertEqual(self.make("b").returncode, 0)
        self.assertEqual(sorted(t["name"] for t in self.node.status()["tenants"]), ["a", "b"])
        files = len(os.listdir(f"/proc/{self.node.process.pid}/fd"))
        self.assertLess(files, 100, "their descriptors are kept")


if __name__ == "__main__":
    sys.exit(main())

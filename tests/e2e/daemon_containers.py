"""The daemon outside, tenants' processes in pid namespaces of their own: known, shown and watched by their pids outside, whatever they
are called inside, and given back when the kernel says so. Two containers have the same pids inside; one sees the directory under
another path."""
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import HERE, Node, until  # noqa: E402

NAMESPACES = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "-p", "--fork", "--mount-proc", "/bin/true"],
                                                  capture_output=True).returncode == 0
MIB = 1 << 20
# pid 1 of a container: starts workers, passes orders on, kills one when told to, and reaps them.
INIT = """
import os, subprocess, sys
count, program = int(sys.argv[1]), sys.argv[2:]
env = {**os.environ, "LD_PRELOAD": os.environ.get("PRELOAD", ""), "LD_LIBRARY_PATH": os.environ["SIM"]}
crew = []
for i in range(count):
    p = subprocess.Popen(program, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    crew.append(p)
    assert p.stdout.readline().split()[0] == "ready"
print(*[p.pid for p in crew], flush=True)
for line in sys.stdin:
    who, order = line.split(None, 1)
    p = crew[int(who)]
    if order.strip() == "kill":
        p.kill()
        p.wait()
        print(0, flush=True)
        continue
    p.stdin.write(order)
    p.stdin.flush()
    print(p.stdout.readline().strip(), flush=True)
"""


class Container:
    """`count` workers in a pid namespace of their own, or one that is its pid 1. pids: outside, in the order of the workers."""

    def __init__(self, case, count, elsewhere=None, preload=True, tenant="a", deaf=False):
        env = {**case.env, "BULKHEAD_TENANT": tenant, "SIM": str(BUILD / "sim")}
        if preload:
            env["PRELOAD"] = str(BUILD / "lib" / "libbulkhead.so")
        program = [sys.executable, str(HERE / "in_daemon.py"), "serve"]
        init = [sys.executable, "-c", INIT, str(count), *program]
        self.alone = count is None
        if self.alone:
            init = ["env", "LD_PRELOAD=" + env["PRELOAD"], "LD_LIBRARY_PATH=" + env["SIM"], *program]
        if elsewhere:  # the directory under another path, its own path hidden
            script = 'mount --bind "$1" "$2" && mount -t tmpfs none "$1" && shift && export BULKHEAD_DIR="$1" && shift && exec "$@"'
            init = ["/bin/sh", "-c", script, "sh", str(case.dir), str(elsewhere), *init]
        if deaf:  # it never speaks with the daemon
            init = ["/bin/sh", "-c", 'mount --bind /dev/null "$1/control.sock" && shift && exec "$@"', "sh", str(case.dir), *init]
        self.process = subprocess.Popen(["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc", *init], env=env,
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        case.addCleanup(self.end)
        said = self.process.stdout.readline().split()
        self.inside = [int(said[1])] if self.alone else [int(word) for word in said]
        case.assertEqual(len(self.inside), count or 1)
        self.init = self.children(self.process.pid)[0]
        numbers = {self.number_inside(pid): pid for pid in [self.init, *self.children(self.init)]}
        self.pids = [numbers[pid] for pid in self.inside]

    @staticmethod
    def children(pid):
        found = []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(stat.parent.name))
            except OSError:
                continue  # gone meanwhile
        return found

    @staticmethod
    def number_inside(pid):
        line = next(x for x in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("NSpid:"))
        return int(line.split()[-1])

    def ask(self, worker, order):
        self.process.stdin.write(f"{order}\n" if self.alone else f"{worker} {order}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        self.process.kill()
        self.process.communicate()


@unittest.skipUnless(NAMESPACES and (BUILD / "bin" / "bulkheadd").exists(), "needs root, namespaces and bulkheadd")
class Containers(Case):
    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.node.start()
        self.addCleanup(self.stop)
        made = self.node.call("run", "-q", "--tenant", "a", "--memory", "8GiB", "--", "/bin/true")
        self.assertEqual(made.returncode, 0, made.stderr)
        self.events = self.node.events()

    def stop(self):
        self.events.end()
        self.assertIsNone(self.node.process.poll(), "the daemon had ended by itself")
        self.assertEqual(self.node.stop(), 0)

    def container(self, count, **more):
        c = Container(self, count, **more)
        for pid in c.pids:
            self.joined(pid)
        return c

    def joined(self, pid):
        event = self.events.wait(["process-joined"], pid)
        self.assertIsNotNone(event, f"never heard of {pid}")
        self.assertEqual(event["tenant"], "a")

    def reaped(self, pid, at_least):
        """At once: by its pidfd, not by the scan a second later."""
        event = self.events.wait(["process-reaped", "process-ended"], pid)
        self.assertIsNotNone(event, f"{pid} was never reaped")
        self.assertEqual((event["kind"], event["text"].split(":")[0]), ("process-reaped", "ended"))
        self.assertGreaterEqual(event["bytes"], at_least)

    def shown(self):
        """pid here -> pid inside, of the tenant's processes."""
        return {p["pid_here"]: p["pid"] for p in self.node.status("a")["processes"]}

    def rounds(self, count):
        first = self.node.metric("bulkhead_sentinel_rounds_total") or 0
        until(lambda: (self.node.metric("bulkhead_sentinel_rounds_total") or 0) >= first + count, "more rounds")

    def test_they_are_known_by_their_pids_outside_and_no_strangers(self):
        c = self.container(2)
        self.assertNotEqual(c.inside, c.pids)
        self.assertEqual([c.ask(i, f"take {GIB}") for i in (0, 1)], [1, 1])
        self.assertEqual(self.shown(), dict(zip(c.pids, c.inside)))
        self.assertRegex(self.node.call("status").stdout, rf"\n  {c.pids[0]} \({c.inside[0]} inside\) python")
        self.assertRegex(self.node.call("top", "--batch", "-n", "1").stdout, rf"\n  {c.pids[1]} \({c.inside[1]}\) python")
        self.rounds(4)
        self.assertEqual(self.node.status()["strays"], [])
        self.assertEqual(self.events.of(["bypass-found", "drift", "peer-refused"]), [])
        self.assertIn('bulkhead_tenant_processes{', self.node.metrics())

    def test_killed_from_inside_and_outside_they_are_reaped_at_once(self):
        c = self.container(2)
        self.assertEqual([c.ask(i, f"take {3 * GIB}") for i in (0, 1)], [1, 1])
        self.assertEqual(c.ask(1, f"take {3 * GIB}"), 0)
        c.ask(0, "kill")
        self.reaped(c.pids[0], 3 * GIB)
        self.assertEqual(self.shown(), {c.pids[1]: c.inside[1]})
        self.assertEqual(c.ask(1, f"take {3 * GIB}"), 1)  # usable again
        os.kill(c.pids[1], signal.SIGKILL)
        self.reaped(c.pids[1], 6 * GIB)
        self.assertEqual(self.node.used("a"), 0)

    def test_equal_pids_in_two_containers_are_told_apart(self):
        inside = pathlib.Path(self.home.name) / "elsewhere"
        inside.mkdir()
        first, second = self.container(None), self.container(None, elsewhere=inside)
        self.assertEqual((first.inside, second.inside), ([1], [1]))
        self.assertNotEqual(first.pids, second.pids)
        for c in (first, second):
            self.assertEqual(c.ask(0, f"take {2 * GIB}"), 1)
        self.assertEqual(sorted(self.shown()), sorted(first.pids + second.pids))
        self.rounds(4)
        self.assertEqual(self.node.status()["strays"], [])
        os.kill(first.pids[0], signal.SIGKILL)
        self.reaped(first.pids[0], 2 * GIB)
        self.assertEqual(self.shown(), {second.pids[0]: 1})
        self.assertEqual(second.ask(0, f"take {2 * GIB}"), 1)
        os.kill(second.pids[0], signal.SIGKILL)
        self.reaped(second.pids[0], 4 * GIB)

    def test_all_die_with_their_namespace(self):
        c = self.container(3)
        for i in range(3):
            self.assertEqual(c.ask(i, f"take {GIB}"), 1)
        os.kill(c.init, signal.SIGKILL)
        for pid in c.pids:
            self.reaped(pid, GIB)
        self.assertEqual((self.node.used("a"), self.shown()), (0, {}))
        again = self.container(1)
        self.assertEqual(again.ask(0, f"take {6 * GIB}"), 1)

    def test_a_killed_daemon_takes_them_over_again(self):
        c = self.container(3)
        for i in range(3):
            self.assertEqual(c.ask(i, f"take {GIB}"), 1)
        self.events.end()
        self.assertTrue(self.node.kill())
        c.ask(2, "kill")  # while nobody looks
        self.node.start()
        self.events = self.node.events()
        for pid in c.pids[:2]:
            until(lambda pid=pid: self.shown().get(pid) is not None, f"{pid} in status")
        until(lambda: self.node.metric("bulkhead_up") == 1 and self.live() == 2, "the two that live")
        os.kill(c.pids[0], signal.SIGKILL)
        self.reaped(c.pids[0], GIB)
        c.ask(1, "kill")
        self.reaped(c.pids[1], GIB)
        until(lambda: self.node.used("a") == 0 and self.shown() == {}, "the books are empty")

    def live(self):
        found = [x for x in self.node.metrics().splitlines() if x.startswith("bulkhead_tenant_processes{")]
        return sum(float(x.rsplit(" ", 1)[1]) for x in found)

    def test_one_that_never_joined_is_known_by_its_lock_and_corrected(self):
        c = self.container(1, deaf=True)
        self.assertEqual(c.ask(0, f"take {GIB}"), 1)
        self.assertEqual(self.shown(), {c.pids[0]: c.inside[0]})
        books = lambda key: self.node.status("a")["devices"][0][key]
        before = books("other_bytes")
        self.assertEqual(c.ask(0, f"late {200 * MIB}"), 0)
        until(lambda: books("other_bytes") >= before + 200 * MIB, "what its driver took is in its books")
        self.assertEqual(self.events.of(["bypass-found", "drift"]), [])
        os.kill(c.pids[0], signal.SIGKILL)
        self.reaped(c.pids[0], GIB)

    def test_a_stranger_inside_is_named_by_its_pid_outside(self):
        c = Container(self, 1, preload=False)
        self.assertEqual(c.ask(0, f"take {GIB}"), 1)
        found = self.events.wait(["bypass-found"], c.pids[0])
        self.assertIsNotNone(found)
        self.assertIn(f"(pid {c.pids[0]},", found["text"])


if __name__ == "__main__":
    sys.exit(main())

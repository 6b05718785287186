"""The latency gate between real processes, with a daemon: who gets which beacon, who is held, that every hold ends, and that nothing of
it happens without a daemon. What a request takes is printed; how fast this machine is is not asserted."""
import json
import subprocess
import unittest

from cli_case import BUILD, BULKHEAD, main
from daemon_control import DaemonCase

CLIENT = str(BUILD / "tests" / "compute_client")
NO_GATE = "bulkhead: no daemon, so nobody waits for --priority latency: start bulkheadd\n"


class Gate(DaemonCase):
    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM_TIMED"] = "1"

    def client(self, name, *words, run=(), daemon=True):
        """A client in a tenant; it has its context and waits for a line."""
        front = [BULKHEAD, "run", "-q", *([] if daemon else ["--no-daemon"]), "--tenant", name, "--memory", "4GiB", *run, "--", CLIENT]
        p = subprocess.Popen([*front, *words], env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), "ready 1\n")
        return p

    def go(self, p, until=None):
        p.stdin.write("go\n")
        p.stdin.flush()
        if until:
            self.assertEqual(p.stdout.readline(), until + " 1\n")

    def end(self, p):
        out, _ = p.communicate()
        self.assertEqual(p.returncode, 0, out)
        return self.said(out)

    def done(self, p):
        """Waits for its own end; its input stays open until then."""
        out = ""
        while not out.endswith("done 1\n"):
            line = p.stdout.readline()
            self.assertNotEqual(line, "", out)
            out += line
        self.end(p)
        return self.said(out)

    def said(self, out):
        return {w[0]: int(w[1]) for w in (line.split() for line in out.splitlines())}

    def end_of(self, p):
        p.communicate()

    def tenant(self, name):
        found, = (t for t in self.status()["tenants"] if t["name"] == name)
        return found

    def counted(self, name):
        return self.tenant(name)["devices"][0]["counted"]

    def hog(self, *run, name="hog", us="5000"):
        p = self.client(name, "hog", us, run=run)
        self.go(p, "began")
        return p

    def requests(self, name="web", count="60", **more):
        p = self.client(name, "requests", "100", "2000", count, run=("--priority", "latency"), **more)
        return p

    def held_once(self, name="hog"):
        """Requests until a batch launch was held for them: the processes hear of each other within a second or two."""
        def one_row():
            p = self.requests(count="100")
            self.go(p)
            self.took = self.done(p)
            return self.counted(name)["gates"]
        self.until(one_row, "a launch that waited for a request")

    def test_batch_launches_wait_for_requests_and_the_bound_is_shown(self):
        self.daemon()
        hog = self.hog()
        self.held_once()
        self.assertEqual(self.tenant("web")["priority"], "latency")
        self.assertEqual(self.tenant("hog")["priority"], "batch")
        self.assertGreater(self.counted("hog")["gated_ns"], 0)
        self.assertEqual(self.counted("web")["gates"], 0)
        # 5 ms kernels, the least window, a switch
        bound = self.until(lambda: self.status()["gpus"][0]["gate_bound_us"], "the bound")
        self.assertGreaterEqual(bound, 5000)
        self.assertIn("waits for batch work", self.call("status").stdout)
        alone = self.end(hog)
        self.assertGreater(alone["launches"], 0)
        print(f"0.1 ms requests beside 5 ms kernels, gate: p50 {self.took['p50'] / 1e6:.2f} ms, p99 {self.took['p99'] / 1e6:.2f} ms; "
              f"bound {bound / 1e3:.2f} ms")

    def test_without_priority_or_daemon_nobody_waits(self):
        hog = self.client("hog", "hog", "5000", daemon=False)
        self.go(hog, "began")
        r = subprocess.run([BULKHEAD, "run", "--no-daemon", "--tenant", "first", "--memory", "1GiB", "--priority", "latency", "--", "/bin/true"],
                           env=self.env, text=True, capture_output=True)
        self.assertEqual((r.returncode, r.stderr), (0, NO_GATE))
        p = self.client("web", "requests", "100", "2000", "100", daemon=False, run=("--priority", "latency"))
        self.go(p)
        took = self.done(p)
        self.end(hog)
        self.assertEqual(self.counted("hog")["gates"], 0)
        self.assertEqual(self.counted("hog")["longest_op_ns"], 0)  # not even measured
        self.assertIsNone(self.status()["gpus"][0]["gate_bound_us"])
        print(f"the same without a gate: p50 {took['p50'] / 1e6:.2f} ms, p99 {took['p99'] / 1e6:.2f} ms")

    def test_two_latency_tenants_do_not_wait_for_each_other(self):
        self.daemon()
        hog = self.hog("--priority", "latency", us="1000")
        p = self.requests(count="1000")
        self.go(p)
        self.done(p)
        self.end(hog)
        self.assertEqual((self.counted("hog")["gates"], self.counted("web")["gates"]), (0, 0))

    def test_a_latency_tenant_that_dies_or_is_demoted_holds_nobody(self):
        self.daemon()
        hog = self.hog()
        self.held_once()
        p = self.requests(count="100000")
        self.go(p)
        before = self.counted("hog")["gates"]
        self.until(lambda: self.counted("hog")["gates"] > before, "another hold")
        self.good(self.ask("set", "web", "--priority", "batch"))
        self.assertEqual(self.tenant("web")["priority"], "batch")

        # once its processes have seen the page they neither hold nor measure; then a look may find nothing new
        self.until(lambda: self.still(), "no hold any more")
        self.good(self.ask("set", "web", "--priority", "latency"))
        now = self.counted("hog")["gates"]
        self.until(lambda: self.counted("hog")["gates"] > now, "holds again")
        p.kill()  # of `run`; its command ends with its input
        self.end_of(p)
        self.assertGreater(self.end(hog)["launches"], 0)

    def still(self):
        """Between two looks that are a few requests apart nothing was held."""
        before = self.counted("hog")["gates"]
        p = self.client("other", "requests", "100", "2000", "20")
        self.go(p)
        self.done(p)
        return self.counted("hog")["gates"] == before

    def test_the_daemon_dies_and_the_gate_goes_on(self):
        daemon = self.daemon()
        hog = self.hog()
        self.held_once()
        p = self.requests(count="100000")
        self.go(p)
        now = self.counted("hog")["gates"]
        self.until(lambda: self.counted("hog")["gates"] > now, "a hold with the daemon")
        daemon.kill()
        daemon.wait()
        now = self.counted("hog")["gates"]
        self.until(lambda: self.counted("hog")["gates"] > now, "a hold without it")
        self.daemon()
        now = self.counted("hog")["gates"]
        self.until(lambda: self.counted("hog")["gates"] > now, "a hold with the next one")
        self.until(lambda: self.tenant("web")["priority"] == "latency", "the new daemon's own word")
        p.kill()
        self.end_of(p)
        self.end(hog)

    def test_priority_is_the_operators_to_give(self):
        self.daemon("[[tenant]]\nname='conf'\nmemory='1GiB'\npriority='latency'\n")
        self.assertEqual(self.tenant("conf")["priority"], "latency")
        r = self.call("run", "--tenant", "x", "--memory", "1GiB", "--priority", "fast", "--", "/bin/true")
        self.assertEqual(r.returncode, 2)
        self.assertIn("'fast' is neither latency nor batch", self.one_line(r.stderr))


if __name__ == "__main__":
    main()

"""The daemon's socket as an operator and several users meet it: who may do what, the queue, live limits, bad configurations, and
tenants made before the daemon came and after it went. Real processes, real uids, the simulated driver."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

BULKHEADD = BUILD / "bin" / "bulkheadd"
ROOT = os.geteuid() == 0 and shutil.which("setpriv") is not None
OPEN_TO_USERS = "[policy]\nusers_may_create = true\nmax_memory = '50GiB'\n"


@unittest.skipUnless(BULKHEADD.exists(), "bulkheadd is not built")
class DaemonCase(Case):
    def setUp(self):
        super().setUp()
        os.chmod(self.home.name, 0o755)
        self.dir.mkdir(mode=0o755)
        self.config = pathlib.Path(self.home.name) / "d.toml"

    def daemon(self, config=""):
        """Started, and its socket answers."""
        self.config.write_text(config)
        p = subprocess.Popen([BULKHEADD, "--sim", "h200", "--config", str(self.config), "--no-sight"], env=self.env, text=True,
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.until(lambda: (self.dir / "control.sock").exists() or p.poll() is not None, "the socket")
        self.assertIsNone(p.poll(), p.poll() is not None and p.stderr.read())
        # the simulated driver is one machine for all users, as the real one is
        subprocess.run(["chmod", "-R", "a+rwX", str(self.dir / "sim")], check=True)
        return p

    def ask(self, *words, uid=None, **more):
        """`bulkhead WORDS`, with the daemon, as another user if told so."""
        front = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return subprocess.run([*front, BULKHEAD, *words], env=self.env, text=True, timeout=60, capture_output=True,
                              stdin=subprocess.DEVNULL, **more)

    def make(self, name, memory, uid=None, *more):
        return self.ask("run", "-q", *more, "--tenant", name, "--memory", memory, "--", "/bin/true", uid=uid)

    def waiter(self, name, memory, wait="--wait"):
        p = subprocess.Popen([BULKHEAD, "run", wait, "--tenant", name, "--memory", memory, "--", "/bin/true"],
                             env=self.env, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        return p

    def limit(self, name):
        for t in self.status()["tenants"]:
            if t["name"] == name:
                return t["devices"][0]["limit_bytes"]
        return None

    def good(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)

    def bad(self, result, code, text):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(text, self.one_line(result.stderr))


class Configuration(DaemonCase):
    def refused(self, text, *, line):
        self.config.write_text(text)
        r = subprocess.run([BULKHEADD, "--sim", "h200", "--config", str(self.config), "--no-sight"], env=self.env, text=True, timeout=60,
                           capture_output=True)
        self.assertEqual(r.returncode, 78, r.stderr)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertIn(f"{self.config}:{line}", r.stderr)
        return r.stderr

    def test_each_mistake_is_one_line_with_file_line_and_fix(self):
        self.refused("[daemon]\nport = 1\n", line="2: [daemon] port: no such key; there are")
        self.refused("[[tenant]]\nname='a'\n[[tenant]]\nname='a'\n", line="3: a second tenant a")
        self.refused("[[tenant]]\nname='a'\nmemory='10 apples'\n", line="3: [[tenant]] memory")
        self.refused("[[tenant]]\nname='a'\nmemory='900GiB'\n", line="1: tenant a: memory 900GiB is more than")
        self.refused("[[tenant]]\nname='a'\nmemory='80%'\n[[tenant]]\nname='b'\nmemory='80%'\n", line="4: tenant b")
        self.refused("[daemon\n", line="1: ")

    def test_a_second_daemon_refuses(self):
        first = self.daemon()
        r = subprocess.run([BULKHEADD, "--sim", "h200", "--config", str(self.config), "--no-sight"], env=self.env, text=True, timeout=60,
                           capture_output=True)
        self.assertNotEqual(r.returncode, 0)
        self.assertIn(str(first.pid), r.stderr)
        self.assertIsNone(first.poll())


class Live(DaemonCase):
    def test_what_does_not_fit_is_refused_with_the_sum(self):
        self.daemon()
        self.good(self.make("a", "100GiB"))
        self.bad(self.make("b", "100GiB"), 125, "100 GiB asked + 100 GiB promised to others > ")
        self.good(self.make("b", "10GiB"))

    def test_set_up_and_down_under_use(self):
        self.daemon()
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--tenant", "a", "--memory", "8GiB", "--", BULKHEAD, "__demo-worker"],
                             env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline().split()[0], "ready")
        self.assertGreater(int(self.tell(p, "fill")[1]), 6 * GIB)
        r = self.ask("set", "a", "--memory", "4GiB")
        self.good(r)
        self.assertIn("cannot grow until it has given back", self.one_line(r.stderr))
        self.assertEqual(self.limit("a"), 4 * GIB)
        self.assertEqual(int(self.tell(p, "fill")[1]), 0)
        self.assertIsNone(p.poll())
        self.good(self.ask("set", "a", "--memory", "16GiB"))
        self.until(lambda: int(self.tell(p, "fill")[1]) > 6 * GIB, "the new room")
        self.bad(self.ask("rm", "a"), 1, "has running processes")

    def test_the_queue_keeps_its_order_and_shows_the_place(self):
        self.daemon()
        self.good(self.make("big", "130GiB"))
        first = self.waiter("f", "100GiB")
        self.assertIn("place 1 of 1", first.stderr.readline())
        second = self.waiter("s", "5GiB")
        self.assertIn("place 2 of 2", second.stderr.readline())
        self.bad(self.make("late", "5GiB"), 125, "others came before")
        first.send_signal(signal.SIGINT)
        self.assertEqual(first.wait(60), 130)
        self.assertEqual(second.wait(60), 0)  # fits now that nobody is ahead
        third = self.waiter("t", "100GiB")
        self.assertIn("place 1 of 1", third.stderr.readline())
        self.good(self.ask("rm", "big"))
        self.assertEqual(third.wait(60), 0)
        self.bad(self.ask("run", "-q", "--wait=1s", "--tenant", "n", "--memory", "100GiB", "--", "/bin/true"), 125,
                 "the time to wait is over")


@unittest.skipUnless(ROOT, "needs root and setpriv")
class Users(DaemonCase):
    def test_users_create_only_if_they_may_and_within_the_maximum(self):
        self.daemon()
        self.bad(self.make("a", "1GiB", 1000), 125, "users may not create tenants")

    def test_owners_lower_and_nothing_else(self):
        self.daemon(OPEN_TO_USERS)
        self.good(self.make("a", "20GiB", 1000))
        self.bad(self.make("b", "31GiB", 1000), 125, "max_memory")
        self.bad(self.make("c", "1GiB", 1000, "--overcommit"), 125, "overcommit is set by root")
        self.good(self.ask("set", "a", "--memory", "10GiB", uid=1000))
        self.bad(self.ask("set", "a", "--memory", "11GiB", uid=1000), 1, "owners may only lower")
        self.good(self.ask("set", "a", "--memory", "30GiB"))
        self.bad(self.make("a", "30GiB", 1001), 125, "belongs to another user")
        self.bad(self.ask("rm", "a", uid=1001), 1, "no tenant a of yours")
        self.good(self.ask("rm", "a", uid=1000))

    def test_the_operators_match_outranks_a_name(self):
        self.daemon(OPEN_TO_USERS + "[[tenant]]\nname='m'\nmemory='4GiB'\nmatch={uid=1000}\n")
        self.bad(self.make("mine", "1GiB", 1000), 125, "belongs to tenant m by its match")
        self.good(self.ask("run", "-q", "--", "/bin/true", uid=1000))
        self.bad(self.ask("run", "-q", "--", "/bin/true", uid=1001), 125, "run needs a quota")


class HandOver(DaemonCase):
    def test_a_tenant_made_alone_is_taken_over_and_outlives_the_daemon(self):
        self.good(self.ask("run", "-q", "--tenant", "a", "--memory", "100GiB", "--", "/bin/true"))
        p = self.daemon()
        self.bad(self.make("b", "100GiB"), 125, "100 GiB promised to others")
        self.good(self.ask("set", "a", "--memory", "20GiB"))
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(60), 0)
        r = self.ask("run", "--tenant", "b", "--memory", "100GiB", "--", "/bin/true")
        self.good(r)
        self.assertIn("no daemon", self.one_line(r.stderr))
        self.assertEqual(self.limit("a"), 20 * GIB)

    def test_a_killed_daemon_comes_back_with_what_was_set(self):
        config = "[[tenant]]\nname='m'\nmemory='10GiB'\n"
        p = self.daemon(config)
        self.good(self.ask("set", "m", "--memory", "5GiB"))
        self.until(lambda: self.limit("m") == 5 * GIB, "the limit")
        p.kill()
        p.wait()
        (self.dir / "control.sock").unlink(missing_ok=True)
        self.daemon(config)
        self.assertEqual(self.limit("m"), 5 * GIB)

    def test_alone_set_shows_the_sum(self):
        self.good(self.ask("run", "-q", "--tenant", "a", "--memory", "60GiB", "--", "/bin/true"))
        self.good(self.ask("run", "-q", "--tenant", "b", "--memory", "60GiB", "--", "/bin/true"))
        self.good(self.ask("set", "a", "--memory", "70GiB"))
        self.bad(self.ask("set", "a", "--memory", "100GiB"), 1, "100 GiB asked + 60 GiB promised to other tenants")
        self.assertEqual(self.limit("a"), 70 * GIB)
        self.bad(self.ask("run", "-q", "--wait", "--tenant", "c", "--memory", "1GiB", "--", "/bin/true"), 125,
                 "--wait needs a daemon")


if __name__ == "__main__":
    sys.exit(main())

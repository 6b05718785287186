"""A reload: each key is in force afterwards, or the answer, the event, status and doctor say what it waits for. Files that are none, or
do not come, stop nobody. Real daemon with its sight child, the simulated driver."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

BULKHEADD = BUILD / "bin" / "bulkheadd"
WATCHDOG_S = 60
HEADER = struct.Struct("<IHHIIIIQ")
RELOAD, CONDITION = 10, 11
VERDICT_TEXT = 32 + 64 + 56 + 16  # behind header, name, sums, four words


def taken_port():
    """A listening socket: its port is nobody else's until it closes."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    return s


@unittest.skipUnless(BULKHEADD.exists(), "bulkheadd is not built")
class Reload(Case):
    def setUp(self):
        super().setUp()
        os.chmod(self.home.name, 0o755)
        self.dir.mkdir(mode=0o755)
        self.config = pathlib.Path(self.home.name) / "d.toml"

    def listens(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            return s.connect_ex(str(self.dir / "control.sock")) == 0  # it is bound before it listens

    def daemon(self, config="", *flags):
        self.config.write_text(config)
        p = subprocess.Popen([BULKHEADD, "--sim", "h200", "--config", str(self.config), *flags], env=self.env, text=True,
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.until(lambda: self.listens() or p.poll() is not None, "the socket")
        self.assertIsNone(p.poll(), p.poll() is not None and p.stderr.read())
        return p

    def ask(self, kind):
        """-> (result, text) of a Verdict."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(WATCHDOG_S)
            s.connect(str(self.dir / "control.sock"))
            s.send(HEADER.pack(0x31574842, 1, kind, HEADER.size, 7, 0, 0, 0))
            m = s.recv(65536)
        magic, _, k, size, sequence, result, _, _ = HEADER.unpack(m[:HEADER.size])
        self.assertEqual((magic, k, size, sequence), (0x31574842, kind | 0x8000, len(m), 7))
        return result, m[VERDICT_TEXT:].split(b"\0")[0].decode()

    def reload(self, config):
        self.config.write_text(config)
        return self.ask(RELOAD)

    def in_force(self, config):
        self.assertEqual(self.reload(config), (0, ""))
        self.assertEqual(self.condition(), "")

    def refused(self, config, *has):
        result, text = self.reload(config)
        self.assertNotEqual(result, 0, text)
        for part in has:
            self.assertIn(part, text)
        self.assertEqual(self.events()[-1]["kind"], "config-refused")

    def condition(self):
        """What status and doctor say, and the daemon: the same."""
        result, text = self.ask(CONDITION)
        self.assertEqual(result, 0)
        self.assertEqual(self.status()["condition"], text)
        checks = json.loads(self.call("doctor", "--json").stdout)["checks"]
        self.assertEqual("".join(c["found"] for c in checks if c["check"] == "configuration"), text)
        return text

    def events(self):
        return [json.loads(line) for line in self.call("events", "--json").stdout.splitlines()]

    def get(self, port, path="/metrics", token=None):
        """Status and body, or (0, "") where nobody listens."""
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=WATCHDOG_S)
        try:
            c.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            r = c.getresponse()
            return r.status, r.read().decode()
        except (ConnectionError, http.client.HTTPException):
            return 0, ""
        finally:
            c.close()

    def serves(self, port, path="/metrics", has=""):
        self.until(lambda: (lambda r: r[0] == 200 and has in r[1])(self.get(port, path)), f"an answer on {port}")

    def port(self):
        with taken_port() as s:
            return s.getsockname()[1]

    def to_another_port(self, config):
        """Reloads with {port} in `config` until one was free."""
        for _ in range(20):
            port = self.port()
            result, text = self.reload(config.format(port=port))
            if "in use" not in text:
                self.assertEqual((result, text), (0, ""))
                return port
        self.fail("no free port")

    # ---- [daemon]
    def test_one_port_for_both_is_refused_and_the_metrics_stay(self):
        self.daemon()
        port = self.to_another_port("[daemon]\nmetrics = {port}\n")
        result, text = self.reload(f"[daemon]\nmetrics = {port}\nconsole = {port}\n")
        self.assertNotEqual(result, 0)
        self.assertIn(f"metrics and console both name port {port}", text)
        self.serves(port, has="bulkhead_up 1")

    def test_metrics_port(self):
        self.daemon()
        one = self.to_another_port("[daemon]\nmetrics = {port}\n")
        self.serves(one)
        two = self.to_another_port("[daemon]\nmetrics = {port}\n")
        self.serves(two)
        if one != two:
            self.until(lambda: self.get(one)[0] == 0, "the old port to be closed")
        self.in_force("")
        self.until(lambda: self.get(two)[0] == 0, "the port to be closed")

    def test_console_port_and_its_token(self):
        self.daemon()
        url = lambda: (self.dir / "console.url").read_text()
        one = self.to_another_port("[daemon]\nconsole = {port}\n")
        token = url().split("#token=")[1].strip()
        self.assertIn(f"127.0.0.1:{one}/", url())
        self.serves(one, "/")
        two = self.to_another_port("[daemon]\nconsole = {port}\n")
        self.serves(two, "/")
        self.assertIn(f"127.0.0.1:{two}/", url())
        self.assertEqual(url().split("#token=")[1].strip(), token)  # open pages stay
        (self.dir / "console.url").unlink()
        self.in_force(f"[daemon]\nconsole = {two}\n")
        fresh = url().split("#token=")[1].strip()
        self.assertNotEqual(fresh, token)
        self.serves(two, "/")

    def test_two_doors_change_ports(self):
        self.daemon()
        a = self.to_another_port("[daemon]\nmetrics = {port}\n")
        b = self.to_another_port("[daemon]\nmetrics = %d\nconsole = {port}\n" % a)
        self.in_force(f"[daemon]\nmetrics = {b}\nconsole = {a}\n")
        self.serves(b, has="bulkhead_")
        self.serves(a, "/", has="<html")

    def test_metrics_names(self):
        self.daemon()
        port = self.to_another_port("[daemon]\nmetrics = {port}\n")
        self.serves(port)
        self.in_force(f"[daemon]\nmetrics = {port}\nmetrics_names = ['dcgm']\n")
        self.serves(port, has="DCGM_")
        self.in_force(f"[daemon]\nmetrics = {port}\n")
        self.until(lambda: "DCGM_" not in self.get(port)[1] and self.get(port)[0] == 200, "our names alone")

    def test_a_port_that_is_taken_changes_nothing(self):
        self.daemon()
        tenant = "[[tenant]]\nname='a'\nmemory='{}'\n"
        port = self.to_another_port("[daemon]\nmetrics = {port}\n" + tenant.format("1GiB"))
        with taken_port() as other:
            taken = other.getsockname()[1]
            self.refused(f"[daemon]\nmetrics = {taken}\n" + tenant.format("2GiB"), f"127.0.0.1:{taken}: Address already in use",
                         "free it or name another port")
            self.serves(port)
            self.assertEqual(self.status()["tenants"][0]["devices"][0]["limit_bytes"], 1 << 30)
        # and the other way round: what does not fit leaves the ports alone
        self.refused("[[tenant]]\nname='a'\nmemory='900GiB'\n", f"{self.config}:1: tenant a: memory 900GiB is more than")
        self.serves(port)

    def test_without_sight_ports_need_a_restart(self):
        self.daemon("", "--no-sight")
        result, text = self.reload("[daemon]\nmetrics = 9477\nconsole = 9478\n")
        self.assertEqual(result, 0)
        self.assertEqual(text, "needs a restart: [daemon] console (without --no-sight), [daemon] metrics (without --no-sight)")
        self.assertEqual(self.condition(), text)
        last = self.events()[-1]
        self.assertEqual((last["kind"], last["severity"], last["text"]), ("config-loaded", "notice", text))
        self.assertIn("NOT IN FORCE: needs a restart: [daemon] console", self.call("status").stdout)
        self.in_force("")

    def test_keys_that_nothing_acts_on_are_named(self):
        self.daemon("[daemon]\nlog_level = 'debug'\n", "--no-sight")
        self.assertEqual(self.condition(), "nothing acts on it yet: [daemon] log_level")  # from the start on
        _, text = self.reload("[daemon]\nlog_level = 'debug'\nself_test = true\n")
        self.assertIn("[daemon] log_level", text)
        self.in_force("")

    # ---- [policy]
    def test_private_dirs(self):
        self.daemon("", "--no-sight")
        flags = lambda: struct.unpack_from("<I", (self.dir / "node").read_bytes(), 24)[0]
        self.assertEqual(flags(), 0)
        self.in_force("[policy]\nprivate_dirs = true\n")
        self.assertEqual(flags(), 1)
        self.in_force("")
        self.assertEqual(flags(), 0)

    # ---- [[tenant]]
    def test_another_device_list_waits_for_the_processes(self):
        config = "[[tenant]]\nname='a'\nmemory='1GiB'\ndevices=['{}']\n"
        self.env["BULKHEAD_SIM"] = "h200x2"
        self.config.write_text("")
        p = subprocess.Popen([BULKHEADD, "--sim", "h200x2", "--config", str(self.config), "--no-sight"], env=self.env,
                             stdin=subprocess.DEVNULL)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.until(self.listens, "the socket")
        one, two = (g["uuid"] for g in self.status()["gpus"])
        self.in_force(config.format(one))
        w = subprocess.Popen([BULKHEAD, "run", "-q", "--tenant", "a", "--", BULKHEAD, "__demo-worker"], env=self.env, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(w.communicate)
        self.addCleanup(w.kill)
        self.assertEqual(w.stdout.readline().split()[0], "ready")
        result, text = self.reload(config.format(two))
        self.assertEqual((result, text),
                         (0, "other GPUs or another owner need a reload after the last process has ended: tenant a"))
        self.assertEqual(self.condition(), text)
        w.stdin.close()  # the worker ends with it
        w.stdin = None  # communicate() would write there
        w.wait(WATCHDOG_S)
        self.until(lambda: self.reload(config.format(two)) == (0, ""), "the tenant made anew")
        self.assertEqual(self.condition(), "")
        self.assertIn(re.sub("GPU-", "", two), json.dumps(self.status()["tenants"][0]["devices"]))

    # ---- the file
    def test_a_pipe_a_directory_and_a_giant_stop_nobody(self):
        p = self.daemon("[[tenant]]\nname='a'\nmemory='1GiB'\n", "--no-sight")
        self.config.unlink()
        os.mkfifo(self.config)
        self.assertIn("not a regular file", self.ask(RELOAD)[1])
        p.send_signal(signal.SIGHUP)  # has no answer but its event
        self.until(lambda: [e["kind"] for e in self.events()].count("config-refused") == 2, "the event")
        self.config.unlink()
        self.config.mkdir()
        self.assertIn("not a regular file", self.ask(RELOAD)[1])
        self.config.rmdir()
        self.assertIn("No such file", self.ask(RELOAD)[1])
        with open(self.config, "wb") as f:
            f.truncate(1 << 40)
        self.assertIn("over 1 MiB", self.ask(RELOAD)[1])
        self.config.unlink()
        self.assertEqual(self.status()["tenants"][0]["name"], "a")  # nothing of it changed anything
        self.in_force("[[tenant]]\nname='b'\nmemory='1GiB'\n")

    def test_a_start_from_a_pipe_is_refused(self):
        os.mkfifo(self.config)
        r = subprocess.run([BULKHEADD, "--sim", "h200", "--config", str(self.config)], env=self.env, text=True, capture_output=True,
                           timeout=WATCHDOG_S)
        self.assertEqual(r.returncode, 78)
        self.assertIn("not a regular file", r.stderr)
        self.assertEqual(len(r.stderr.splitlines()), 1)

    def test_many_reloads_at_once_are_all_answered(self):
        self.daemon("", "--no-sight")
        self.config.write_text("[[tenant]]\nname='a'\nmemory='1GiB'\n")
        sockets = []
        for _ in range(24):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.settimeout(WATCHDOG_S)
            s.connect(str(self.dir / "control.sock"))
            s.send(HEADER.pack(0x31574842, 1, RELOAD, HEADER.size, 7, 0, 0, 0))
            sockets.append(s)
        for s in sockets[::3]:
            s.close()  # did not wait for it
        for s in (s for i, s in enumerate(sockets) if i % 3):
            self.assertEqual(HEADER.unpack(s.recv(65536)[:HEADER.size])[5], 0)
            s.close()

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root")
    def test_the_default_tenant_says_whose_it_is(self):
        self.daemon("", "--no-sight")
        self.refused("[policy]\nunmatched='default:d'\n[[tenant]]\nname='d'\nmemory='1GiB'\n", f"{self.config}:2: [policy] unmatched",
                     "match = {uid = N}")
        self.in_force("[policy]\nunmatched='default:d'\n[[tenant]]\nname='d'\nmemory='1GiB'\nmatch={uid=1000,cgroup='/nowhere'}\n")
        subprocess.run(["chmod", "-R", "a+rwX", str(self.dir / "sim")], check=True)
        run = lambda uid: subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", BULKHEAD, "run", "-q", "--",
                                          "/bin/sh", "-c", "echo $BULKHEAD_TENANT"], env=self.env, text=True, capture_output=True,
                                         timeout=WATCHDOG_S)
        r = run(1000)
        self.assertEqual((r.returncode, r.stdout), (0, "d\n"), r.stderr)
        r = run(2000)
        self.assertNotEqual(r.returncode, 0)
        self.assertEqual(r.stdout, "")


if __name__ == "__main__":
    sys.exit(main())

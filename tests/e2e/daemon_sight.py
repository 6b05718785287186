"""What a live daemon shows: `bulkhead top` over its socket as text, as JSON and on an 80x24 terminal, also while it is killed and
comes back; process names that would drive a terminal; metrics under HAMi's and DCGM's names."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import unittest

import cli_top
from cli_case import BUILD, BULKHEAD, GIB, WATCHDOG_S, Case, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import HERE, Node, ask, ready, until  # noqa: E402

MIB = 1 << 20
HOSTILE = "\x1b[2Jx\n\x07\u009b"  # a command of at most 15 bytes; the last is a terminal's CSI as UTF-8
SHOWN = "?[2Jx????"


class Live(Case):
    on_terminal, shows = cli_top.Top.on_terminal, cli_top.Top.shows

    def setUp(self):
        super().setUp()
        self.node = Node(BULKHEAD, self.env)
        self.node.config.write_text(getattr(self, "config", ""))
        self.node.start()
        self.addCleanup(self.node.stop)

    def serve(self, **more):
        p = self.node.run("serve", **more)
        return p, ready(p)[0]

    def top(self):
        r = self.call("top", "--json", "-n", "1")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        return json.loads(r.stdout)


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class Top(Live):
    def test_json_has_the_daemons_figures(self):
        p, pid = self.serve()
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        stranger = self.node.bare("serve")
        strange, _ = ready(stranger)
        self.assertEqual(ask(stranger, f"take {3 * GIB}"), 1)
        until(lambda: [s for s in self.top()["strays"] if s["pid"] == strange and s["bytes"] > 3 * GIB], "the stranger")
        t = self.top()
        self.assertTrue(t["daemon"])
        self.assertEqual(t["gpus"][0]["promised_bytes"], 10 * GIB)
        self.assertIsNotNone(t["gpus"][0]["busy_percent"])
        mine, = t["tenants"]
        self.assertEqual((mine["name"], mine["from"], mine["problem"]), ("t", "region", ""))
        self.assertEqual(mine["devices"][0]["limit_bytes"], 10 * GIB)
        self.assertEqual([q["pid"] for q in mine["processes"]], [pid])
        self.assertEqual([s["kind"] for s in t["strays"]], ["unregistered"])
        until(lambda: self.top()["tenants"][0]["devices"][0]["share_percent"] is not None, "its share of the GPU's time")
        text = self.call("top", "--batch", "-n", "1").stdout
        self.assertRegex(text, r"^bulkhead top  \S+  1 tenant, 1 process  daemon  simulated driver\n")
        self.assertRegex(text, rf"\nOUTSIDE THE BOOKS\n +3\.\d+ GiB  on GPU 0   pid {strange} +python\S* +uid \d+ +unregistered\n")
        for line in text.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_batch_says_when_the_daemon_goes_and_comes(self):
        self.serve()
        p = subprocess.Popen([BULKHEAD, "top", "--json", "-d", "0.1"], env=self.env, text=True, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)

        def comes(there):
            until(lambda: json.loads(p.stdout.readline())["daemon"] is there, f"a round with daemon: {there}")

        comes(True)
        self.assertTrue(self.node.kill())
        comes(False)
        self.node.start()
        comes(True)
        self.assertIsNone(p.poll())

    def title(self, screen):
        return screen.lines()[0].split("process  ")[-1]

    def test_the_screen_says_so_too_and_recovers(self):
        p, pid = self.serve()
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        t = self.on_terminal()
        row = re.compile(rf"^t +0 +1\.\d+ GiB +10 GiB \[\|+ +\] +(\d+ %|-) +1 +0\n  {pid} python", re.M)
        whole = lambda s: bool(row.search(s.text())) and "q end" in s.lines()[23]
        self.shows(t, lambda s: self.title(s) == "daemon  simulated driver" and whole(s), "the tenant, and a daemon")
        self.assertEqual(t[2].lines()[0].split("  ")[0], "bulkhead top")
        self.assertTrue(any(line.rstrip().endswith("REFUSED") for line in t[2].lines()), t[2].text())
        self.assertTrue(self.node.kill())
        self.shows(t, lambda s: self.title(s) == "no daemon  simulated driver" and whole(s), "no daemon, the tenant all the same")
        self.assertEqual(ask(p, f"take {GIB}"), 1)
        self.shows(t, lambda s: re.search(r"^t +0 +2\.\d+ GiB", s.text(), re.M), "its new figure without a daemon")
        self.node.start()
        self.shows(t, lambda s: self.title(s) == "daemon  simulated driver" and "daemon: " not in s.text(), "the daemon again")
        os.write(t[1], b"q")
        self.assertEqual(t[0].wait(WATCHDOG_S), 0)
        self.assertEqual(t[0].stderr.read(), b"")

    def test_a_stopped_daemon_is_no_hang(self):
        self.serve()
        self.node.process.send_signal(signal.SIGSTOP)
        self.addCleanup(self.node.process.send_signal, signal.SIGCONT)
        t = self.top()
        self.assertEqual((t["daemon"], [x["name"] for x in t["tenants"]]), (False, ["t"]))
        self.assertRegex(self.call("top", "--batch", "-n", "1").stdout, r"  no daemon  simulated driver\ndaemon: ")
        self.node.process.send_signal(signal.SIGCONT)
        until(lambda: self.top()["daemon"], "its answer")

    def clean(self, text):
        self.assertEqual([c for c in text if c != "\n" and (c < " " or "\x7f" <= c <= "\x9f")], [], text)

    def test_names_cannot_drive_a_terminal(self):
        program = pathlib.Path(self.home.name) / HOSTILE
        program.symlink_to(sys.executable)
        crew = []
        for front in ([BULKHEAD, "run", "-q", "--tenant", "t", "--memory", "10GiB", "--"], []):
            env = self.env if front else {**self.env, "LD_LIBRARY_PATH": str(BUILD / "sim")}
            p = subprocess.Popen([*front, str(program), str(HERE / "in_daemon.py"), "serve"], env=env, text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(p.communicate)
            self.addCleanup(p.kill)
            crew.append(ready(p)[0])
        member, stray = crew
        until(lambda: [s for s in self.top()["strays"] if s["pid"] == stray], "the stranger")
        t = self.top()
        self.assertEqual([q["command"] for q in t["tenants"][0]["processes"]], [SHOWN])
        self.assertEqual([s["command"] for s in t["strays"]], [SHOWN[:-1]])  # the daemon counts characters
        for words in (("top", "--batch", "-n", "1"), ("status",), ("events",)):
            r = self.call(*words)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.clean(r.stdout)
            self.assertIn(str(stray), r.stdout)
        for words in (("top", "--json", "-n", "1"), ("status", "--json"), ("events", "--json")):
            self.clean(self.call(*words).stdout)
        self.assertNotIn("\x1b", self.node.metrics())
        terminal = self.on_terminal()  # a sequence of theirs would be one that it does not know, or clear it
        self.shows(terminal, lambda s: f"  {member} {SHOWN}" in s.text() and f"pid {stray}" in s.text(), "both, as text")

    def test_no_tenant_has_such_a_name(self):
        for name in ("\x1b[2J", "a\nb", "a b", "\u00e9", "../a", "a" * 64):
            r = self.call("run", "-q", "--tenant", name, "--memory", "1GiB", "--", "/bin/true")
            self.assertNotEqual(r.returncode, 0, name)
            self.clean(self.one_line(r.stderr))
        self.assertEqual(self.top()["tenants"], [])


@unittest.skipUnless((BUILD / "bin" / "bulkheadd").exists(), "bulkheadd is not built")
class ForeignNames(Live):
    config = "[daemon]\nmetrics_names = ['hami', 'dcgm']\n"

    def plain(self):
        """/metrics in Prometheus' older format, which promtool reads."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(WATCHDOG_S)
            s.connect(str(self.node.dir / "metrics.sock"))
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: s.recv(1 << 16), b"")).decode()
        return text.split("\r\n\r\n", 1)[1]

    def sample(self, name, **labels):
        """The one sample of a family with these labels."""
        found = [line for line in self.node.metrics().splitlines() if line.startswith(name + "{")
                 and all(f'{k}="{v}"' in line for k, v in labels.items())]
        return float(found[0].rsplit(" ", 1)[1]) if len(found) == 1 else None

    def test_they_say_what_status_says(self):
        p, _ = self.serve()
        self.assertEqual(ask(p, f"take {2 * GIB}"), 1)
        used = self.node.used()
        gpu = self.node.status()["gpus"][0]
        uuid = gpu["uuid"]
        for name in ("hami_vgpu_memory_used_bytes", "vGPU_device_memory_usage_in_bytes"):
            until(lambda name=name: self.sample(name, tenant="t", deviceuuid=uuid) == used, name)
        for name in ("hami_vgpu_memory_limit_bytes", "vGPU_device_memory_limit_in_bytes"):
            self.assertEqual(self.sample(name, tenant="t", deviceuuid=uuid), 10 * GIB)
        until(lambda: (self.sample("HostGPUMemoryUsage", deviceuuid=uuid, deviceidx=0) or 0) >= 2 * GIB, "the device's use")
        until(lambda: (self.sample("DCGM_FI_DEV_FB_USED", gpu=0, UUID=uuid) or 0) >= 2 * 1024, "the device's use in MiB")
        whole = gpu["total_bytes"] // MIB
        until(lambda: self.mib() in (whole - 1, whole), "FB_USED + FB_FREE: all of it, less what two roundings lose")
        for name, key in (("HostCoreUtilization", "deviceuuid"), ("DCGM_FI_DEV_GPU_UTIL", "UUID")):
            until(lambda name=name, key=key: 0 <= (-1 if (v := self.sample(name, **{key: uuid})) is None else v) <= 100, name)
        until(lambda: self.sample("hami_container_device_utilization_ratio", tenant="t") is not None, "the tenant's part of the GPU")

    def mib(self):
        text = self.node.metrics()
        parts = re.findall(r"^DCGM_FI_DEV_FB_(?:USED|FREE)\{[^\n]*\} (\d+)$", text, re.M)
        return sum(int(n) for n in parts)

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed")
    def test_promtool_reads_them(self):
        self.serve()
        until(lambda: self.sample("hami_container_device_utilization_ratio", tenant="t") is not None, "all families")
        r = subprocess.run(["promtool", "check", "metrics"], input=self.plain(), text=True, capture_output=True, timeout=WATCHDOG_S)
        # 3: it was read, and names are not as promtool likes them; ours are
        self.assertIn(r.returncode, (0, 3), r.stderr)
        for line in (r.stdout + r.stderr).splitlines():
            self.assertRegex(line, r"^(vGPU_|Host|DCGM_FI_|hami_)\w+ ")
        broken = self.plain().replace("\nDCGM_FI_DEV_FB_USED{gpu=", "\nDCGM_FI_DEV_FB_USED{gpu", 1)
        r = subprocess.run(["promtool", "check", "metrics"], input=broken, text=True, capture_output=True, timeout=WATCHDOG_S)
        self.assertEqual(r.returncode, 1)  # it does look

    def test_without_the_setting_there_are_none(self):
        self.node.config.write_text("")
        self.node.kill()
        self.node.start()
        self.serve()
        until(lambda: 'bulkhead_tenant_processes{' in self.node.metrics(), "the tenant in the metrics")
        self.assertNotRegex(self.node.metrics(), r"(?m)^(# \w+ )?(hami_|vGPU_|Host|DCGM_)")


if __name__ == "__main__":
    sys.exit(main())

"""packaging_test.py BUILD_DIR manual|install|mount|rules: what is shipped beside the programs is complete and correct."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD = pathlib.Path(sys.argv[1]).resolve()
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
MANUAL = BUILD / "manual"
BULKHEAD = BUILD / "bin" / "bulkhead"
WATCHDOG_S = 60


def call(*words, **more):
    return subprocess.run([str(w) for w in words], text=True, capture_output=True, timeout=WATCHDOG_S, **more)


def plain(page):
    r = call("man", "-l", "-Tutf8", page, env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8"})
    text = re.sub(r".\x08|\x1b\[[0-9;]*m", "", r.stdout)  # bold and underlined
    return text.replace("\u2010", "-").replace("\u2212", "-")


class Manual(unittest.TestCase):
    def helps(self):
        """command -> the options its --help shows."""
        commands = re.findall(r"^  ([a-z]+) ", call(BULKHEAD, "--help").stdout.split("Subcommands:")[1], re.M)
        self.assertIn("run", commands)
        out = {}
        for c in commands:
            text = call(BULKHEAD, c, "--help").stdout
            out[c] = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", text.split("Options:")[1]))
        return out

    @unittest.skipUnless(shutil.which("man") and shutil.which("groff"), "man and groff are not installed")
    def test_every_option_of_help_is_in_the_page(self):
        page = plain(MANUAL / "bulkhead.1")
        for command, options in self.helps().items():
            section = re.search(rf"^   {command}$(.*?)(?=^   [a-z]|^[A-Z])", page, re.M | re.S)
            self.assertTrue(section, command)
            for o in options - {"-h", "--help"}:
                self.assertRegex(section[1], rf"(?<![\w-]){re.escape(o)}(?![\w-])", command)

    @unittest.skipUnless(shutil.which("man") and shutil.which("groff"), "man and groff are not installed")
    def test_pages_are_clean(self):
        for name in ("bulkhead.1", "bulkheadd.8", "bulkheadd.toml.5"):
            r = call("man", "-l", "--warnings", "-Tutf8", "-Z", MANUAL / name, env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
            self.assertEqual((r.returncode, r.stderr), (0, ""), name)
            self.assertGreater(len(r.stdout), 1000)

    def complete(self, *words):
        script = (f'source {MANUAL}/bulkhead.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bulkhead; printf "%s\\n" "${{COMPREPLY[@]}}"')
        r = call("bash", "--norc", "-c", script, "bash", "bulkhead", *words)
        self.assertEqual(r.stderr, "")
        return set(r.stdout.split())

    def test_bash(self):
        helps = self.helps()
        self.assertLessEqual(set(helps), self.complete(""))
        self.assertEqual(self.complete("stat"), {"status"})
        for command, options in helps.items():
            self.assertLessEqual(options, self.complete(command, "-") | {"-h"}, command)
        self.assertEqual(self.complete("run", "--on-fault", ""), {"deny", "open"})
        self.assertEqual(self.complete("run", "--tenant", ""), set())
        self.assertEqual(self.complete("run", "--mem"), {"--memory"})

    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_zsh(self):
        self.assertEqual(call("zsh", "-n", MANUAL / "_bulkhead").stderr, "")
        text = (MANUAL / "_bulkhead").read_text()
        for command, options in self.helps().items():
            line = re.search(rf"^    {command}\)\n(.*)$", text, re.M)
            for o in options:
                self.assertIn(f"'{o}[", line[1], command)

    def test_every_key_of_the_configuration_is_described(self):
        source = ROOT / "src" / "daemon" / "config.cc"
        if not source.exists():
            self.skipTest("no daemon here")
        known = set(re.findall(r'(?:text|flag|number|texts|word|port|size|percent|table|compute|memory|share|name|ratio)\w*\("([a-z_]+)"', source.read_text()))
        page, example = (MANUAL / "bulkheadd.toml.5").read_text().replace("\\-", "-"), (MANUAL / "bulkheadd.toml").read_text()
        self.assertGreater(len(known), 20)
        for key in known:
            self.assertRegex(page, rf'(\\fB{key}\\fR|\.SH "\[+{key}\]|{key}[,\n ])', key)
            self.assertRegex(example, rf"(?m)(^# {key} = |\[{key}\]|{key} = )", key)


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.TemporaryDirectory(prefix="bulkhead-install-")
        cls.root = pathlib.Path(cls.home.name)
        r = call("cmake", "--install", BUILD / "packaging", "--prefix", "/usr", env={**os.environ, "DESTDIR": cls.home.name})
        assert r.returncode == 0, r.stderr

    @classmethod
    def tearDownClass(cls):
        cls.home.cleanup()

    def test_places(self):
        for path in ("bin/bulkhead", "lib/bulkhead/libbulkhead.so", "lib/bulkhead/libbulkhead.so.0", "lib/bulkhead/sim/libcuda.so.1",
                     "lib/bulkhead/sim/libnvidia-ml.so.1", "lib/tmpfiles.d/bulkhead.conf", "lib/sysusers.d/bulkhead.conf",
                     "share/man/man1/bulkhead.1", "share/man/man5/bulkheadd.toml.5", "share/man/man8/bulkheadd.8",
                     "share/bash-completion/completions/bulkhead", "share/zsh/site-functions/_bulkhead",
                     "share/doc/bulkhead/examples/bulkheadd.toml", "lib/systemd/system/run-bulkhead.mount"):
            self.assertTrue((self.root / "usr" / path).exists(), path)
        self.assertEqual((BUILD / "bin" / "bulkheadd").exists(), (self.root / "usr/sbin/bulkheadd").exists())

    @unittest.skipUnless((BUILD / "bin" / "bulkhead-bench").exists(), "no bench here")
    def test_bench_finds_its_parts_where_they_are_installed(self):
        r = call(self.root / "usr/bin/bulkhead", "bench", "memory", "--sim", "--quick", "--repeats", "1", "--only", "plain 512 B", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        said = json.loads(r.stdout)
        ours = next(v for v in said["variants"] if v["name"] == "bulkhead")
        self.assertEqual(pathlib.Path(ours["library"]), self.root / "usr/lib/bulkhead/libbulkhead.so")
        self.assertFalse(ours["limit_inert"])
        self.assertTrue(any(c["variant"] == "bulkhead" and c["median"] > 0 for c in said["cases"]))

    @unittest.skipUnless((BUILD / "bin" / "bulkhead-bench").exists(), "no bench here")
    def test_every_suite_can_be_named(self):
        suites = re.search(r"--suite ([a-z|]+)\]", call(BUILD / "bin" / "bulkhead-bench", "--usage").stderr)[1]
        offered = re.search(r"SUITE ([a-z|]+)", call(BULKHEAD, "bench", "--help").stdout)[1]
        self.assertIn("compute", suites)
        self.assertLessEqual(set(suites.split("|")), set(offered.split("|")))

    def test_bench_that_is_not_installed_is_one_clear_line(self):
        with tempfile.TemporaryDirectory() as d:
            alone = shutil.copy(self.root / "usr/bin/bulkhead", d)
            r = call(alone, "bench", "compute")
        if "/usr/lib/bulkhead/bulkhead-bench" in r.stderr or r.returncode != 125:
            self.skipTest("a bench is installed on this machine")
        self.assertEqual((r.stdout, len(r.stderr.splitlines())), ("", 1))
        self.assertIn("bulkhead-bench is not installed", r.stderr)

    def test_the_installed_program_starts(self):
        r = call(self.root / "usr/bin/bulkhead", "--version")
        self.assertEqual((r.returncode, r.stdout[:8]), (0, "bulkhead"))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_unit(self):
        with tempfile.TemporaryDirectory() as d:
            unit = pathlib.Path(d) / "bulkheadd.service"
            text = (HERE / "systemd" / "bulkheadd.service").read_text().replace("/usr/sbin/bulkheadd", "/bin/true")
            unit.write_text(text)  # verify wants the program to be there
            r = call("systemd-analyze", "verify", "--man=no", unit)
            if "Failed to initialize manager" in r.stderr or "bus" in r.stderr.lower() and r.returncode:
                self.skipTest("systemd-analyze does not work here: " + r.stderr.strip()[:120])
            self.assertEqual((r.returncode, [l for l in r.stderr.splitlines() if "bulkheadd" in l]), (0, []))
            r = call("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=50", unit)
            self.assertEqual(r.returncode, 0, r.stdout + r.stderr)  # 5.0 of 10: what root needs is allowed, no more
        for line in ("Type=notify", "KillMode=process", "RuntimeDirectoryPreserve=yes", "WatchdogSec="):
            self.assertIn("\n" + line, text)


class Mount(unittest.TestCase):
    """The file system that regions lie in: sized, so that a tenant that makes its own longer fills it and not /run."""
    options = re.search(r"^Options=(.*)$", (HERE / "systemd" / "run-bulkhead.mount").read_text(), re.M)[1]

    def test_the_service_wants_it(self):
        self.assertIn("\nRequiresMountsFor=/run/bulkhead\n", (HERE / "systemd" / "bulkheadd.service").read_text())

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_the_unit_is_one(self):
        r = call("systemd-analyze", "verify", "--man=no", HERE / "systemd" / "run-bulkhead.mount")
        if "Failed to initialize manager" in r.stderr or "bus" in r.stderr.lower() and r.returncode:
            self.skipTest("systemd-analyze does not work here: " + r.stderr.strip()[:120])
        self.assertEqual((r.returncode, [l for l in r.stderr.splitlines() if "run-bulkhead" in l]), (0, []))

    @unittest.skipUnless(os.geteuid() == 0, "mounting needs root")
    def test_its_options_bound_what_a_file_can_take(self):
        self.assertIn("size=2G", self.options)
        with tempfile.TemporaryDirectory() as d:
            r = call("mount", "-t", "tmpfs", "-o", self.options.replace("size=2G", "size=1M"), "tmpfs", d)
            if r.returncode:
                self.skipTest("no mounts here: " + r.stderr.strip())
            try:
                region = pathlib.Path(d) / "region"
                with self.assertRaises(OSError):
                    region.write_bytes(bytes(8 << 20))
                self.assertLessEqual(region.stat().st_size, 1 << 20)
                self.assertEqual(os.stat(d).st_mode & 0o7777, 0o755)
            finally:
                call("umount", d)


def metric_names():
    """Every name the daemon's child can write, as a query sees it."""
    names = set()
    for f in (ROOT / "src/daemon/sight").glob("metrics*.cc"):
        if "compat" not in f.name:
            names |= set(re.findall(r'"(bulkhead_[a-z_]+)"', f.read_text()))
    return names | {n + s for n in names for s in ("_total", "_bucket", "_sum", "_count", "_info")}


class Rules(unittest.TestCase):
    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed (package prometheus)")
    def test_rules(self):
        rules = HERE / "prometheus"
        for words in (("check", "rules", "bulkhead.rules.yml"), ("test", "rules", "bulkhead.rules_test.yml")):
            r = call("promtool", *words, cwd=rules)
            self.assertEqual(r.returncode, 0, r.stdout + r.stderr)

    def used(self, text):
        return set(re.findall(r"\bbulkhead_[a-z_]+", text))

    def test_rules_and_panels_ask_for_what_there_is(self):
        known = metric_names()
        self.assertIn("bulkhead_reap_delay_seconds_bucket", known)
        for f in ("prometheus/bulkhead.rules.yml", "grafana/bulkhead.json"):
            used = self.used((HERE / f).read_text())
            self.assertGreater(len(used), 5)
            self.assertEqual(used - known, set(), f)

    def test_the_dashboard_is_made_from_its_table(self):
        r = call(sys.executable, ROOT / "tools" / "make_dashboard.py")
        self.assertEqual(json.loads(r.stdout), json.loads((HERE / "grafana" / "bulkhead.json").read_text()))

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed (package prometheus)")
    def test_the_panels_queries_are_queries(self):
        panels = json.loads((HERE / "grafana" / "bulkhead.json").read_text())["panels"]
        rules = [{"record": f"a:b:c{i}", "expr": re.sub(r"\$__range", "5m", t["expr"])} for i, t in
                 enumerate(t for p in panels for t in p["targets"])]
        with tempfile.TemporaryDirectory() as d:
            f = pathlib.Path(d) / "panels.yml"
            f.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
            r = call("promtool", "check", "rules", f)
            self.assertEqual(r.returncode, 0, r.stdout + r.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *([sys.argv[2].capitalize()] if len(sys.argv) > 2 else [])])

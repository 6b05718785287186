"""What is asked before a command starts or a lane is given: a grant of the reserve's class, the signed library. And where both are seen:
`status`, the metrics, the session's record."""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

from audit_lanes import CLIENT
from cli_case import BULKHEAD, main
from grants import SUBJECT, Grants
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from node import until  # noqa: E402
from shim import Shim  # noqa: E402

COPY = """
import sys
sys.path.insert(0, sys.argv[1])
from ctypes import c_size_t, create_string_buffer
from cuda_driver import Driver
driver = Driver()
driver.primary()
address = driver.alloc(1 << 20)
driver.call("cuMemcpyHtoD_v2", address, create_string_buffer(4096), c_size_t(4096))
print("copied", flush=True)
sys.stdin.read()
"""
PROGRAM = [sys.executable, "-c", COPY, str(pathlib.Path(__file__).resolve().parents[1] / "gpu")]


class Reserve(Grants):
    def reserve(self, more=""):
        return self.daemon(more='[reserve]\nclass = "critical"\nshare = "50%"\n' + more +
                           f'[[tenant]]\nname = "vital"\nmemory = "60GiB"\nreserve_class = "critical"\ngrant_subject = "{SUBJECT}"\n')

    def run_vital(self, *words):
        return self.call("run", "-q", "--tenant", "vital", *words, "--", "true")

    def test_only_a_grant_of_the_class_uses_the_reserve(self):
        self.reserve()
        # others do not get into it, whatever they have
        r = self.call("run", "-q", "--memory", "60GiB", "--", "true")
        self.assertEqual(r.returncode, 125)
        self.assertIn("reserve on GPU 0", r.stderr)
        # the operator's word alone is not enough
        r = self.run_vital()
        self.assertEqual(r.returncode, 125)
        self.assertIn("tenant vital has its memory from the reserve 'critical', which only a grant of that class may use",
                      self.one_line(r.stderr))
        # nor is a grant of another class
        self.issue(**{"class": "mnpi"})
        r = self.run_vital("--grant", str(self.token))
        self.assertEqual(r.returncode, 125)
        self.assertIn("reserve 'critical'", r.stderr)
        self.issue(**{"class": "critical"})
        r = self.run_vital("--grant", str(self.token))
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(self.run_vital().returncode, 0)  # as long as it lives
        self.good("grant", "revoke", "--tenant", "vital")
        self.assertEqual(self.run_vital().returncode, 125)
        # who is not of the reserve is not asked
        self.assertEqual(self.call("run", "-q", "--tenant", "trade", "--", "true").returncode, 0)
        grants = json.loads(self.call("status", "--json").stdout)["audit"]["grants"]
        self.assertEqual((grants["living"], grants["accepted"], grants["revoked"]), (0, 2, 2))
        self.issue(subject="spiffe://firm.example/other")
        self.run_vital("--grant", str(self.token))
        self.assertGreaterEqual(json.loads(self.call("status", "--json").stdout)["audit"]["grants"]["refused"]["subject"], 1)
        self.assertIn("refused (subject", self.call("status").stdout)


class Signed(Shim):
    def daemon(self):
        text = f'[trust]\nshim_root = "{self.root}"\nshim = "{self.manifest}"\n[audit]\n'
        for name, mode in (("seen", "observe"), ("held", "enforce")):
            text += f'[[tenant]]\nname = "{name}"\nmemory = "1GiB"\naudit = "{mode}"\n'
        self.config.write_text(text)
        p = subprocess.Popen([pathlib.Path(BULKHEAD).with_name("bulkheadd"), "--sim", "h200", "--no-sight", "--config", str(self.config)],
                             env=self.env, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(p.wait)
        self.addCleanup(p.terminate)  # drains, and takes the keeper along
        until(lambda: self.listens() or p.poll() is not None, "the socket, or its end")
        return p

    def records(self):
        log = self.dir / "state" / "audit"
        lines = self.call("audit", "export", str(log)).stdout.splitlines()
        return [(json.loads(line)["index"], json.loads(line)["record"]) for line in lines if '"record":{' in line]

    def sessions(self):
        return [(index, r) for index, r in self.records() if r["record"] == "session"]

    @unittest.skipUnless(CLIENT.exists(), "not built")
    def test_the_record_of_a_process_names_its_library(self):
        self.assertIsNone(self.daemon().poll())
        copy = pathlib.Path((self.dir / "shim").read_text().strip())
        p = subprocess.Popen([BULKHEAD, "run", "-q", "--tenant", "seen", "--", *PROGRAM], env=self.env, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), "copied\n")
        ((index, record),) = until(self.sessions, "its session's record, signed")
        self.assertEqual(record["shim"], copy.parent.name)  # its SHA-256
        shown = self.call("audit", "show", str(index), "--dir", str(self.dir / "state" / "audit"))
        self.assertIn(copy.parent.name, shown.stdout)
        p.communicate(timeout=60)
        rows = self.at / "rows"
        # the library's objects linked into a program are not what was signed, even if it maps the signed file's bytes
        env = {**self.env, "BULKHEAD_TENANT": "seen", "LD_LIBRARY_PATH": str(CLIENT.parents[1] / "sim"), "AUDIT_CLIENT_MAPS": str(copy)}
        subprocess.run([CLIENT, str(rows), "1", "10"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
        until(lambda: [r for _, r in self.sessions() if r["shim"] == "none"], "a record that says so")
        # under enforce such a one gets no lane, and nothing of it gets through
        env["BULKHEAD_TENANT"] = "held"
        rows = self.at / "rows of the other"
        subprocess.run([CLIENT, str(rows), "1", "10"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
        _, recorded, refused = struct.unpack("<QQQ", rows.read_bytes())
        self.assertEqual((recorded, refused), (0, 10))


# unittest finds the tests of what is imported: theirs are not this file's
for parent, child in ((Grants, Reserve), (Shim, Signed)):
    for name in [n for n in dir(parent) if n.startswith("test_")]:
        setattr(child, name, None)
del Grants, Shim, parent, child

if __name__ == "__main__":
    main()

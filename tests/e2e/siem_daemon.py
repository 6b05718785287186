"""The whole way: a program copies under an audited tenant of a real daemon, and rsyslog has the sums. A receiver that goes away and comes
back is told of, nothing waits for it, and the daemon's death loses nothing."""
import subprocess
import sys

from cli_case import BUILD, BULKHEAD, Case, main
from siem_case import Rsyslog, SiemCase, add_up, log_totals, until

from node import Node  # the folder is on the path since siem_case

COPIES = """
import ctypes, sys
lib = ctypes.CDLL("libcuda.so.1")
def call(name, *args):
    code = getattr(lib, name)(*args)
    assert code == 0, (name, code)
call("cuInit", 0)
context, at = ctypes.c_void_p(), ctypes.c_uint64()
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(65536))
room = ctypes.create_string_buffer(65536)
for i in range(int(sys.argv[1])):
    call("cuMemcpyHtoD_v2", at, room, ctypes.c_size_t(1000 + i))
    call("cuMemcpyDtoH_v2", room, at, ctypes.c_size_t(10))
"""


class Daemon(SiemCase):
    def setUp(self):
        super().setUp()
        if not (BUILD / "bin" / "bulkheadd").exists():
            self.skipTest("bulkheadd is not built")
        Case.setUp(self)
        self.where = self.dir.parent
        self.r = Rsyslog(self.where, "relp")
        self.addCleanup(self.r.said.close)
        self.node = Node(BULKHEAD, self.env)
        self.node.config.write_text(f'[audit]\n[siem]\nurl = "{self.r.url}"\n[[tenant]]\nname = "t"\nmemory = "10GiB"\naudit = "observe"\n')
        self.log = self.dir / "state" / "audit"
        self.addCleanup(self.stop)

    def stop(self):
        if self.node.process:
            self.node.process.kill()
            self.node.process.wait()
        if self.r.process:
            self.r.kill()

    def copies(self, count):
        r = subprocess.run([BULKHEAD, "run", "-q", "--tenant", "t", "--", sys.executable, "-c", COPIES, str(count)], env=self.env,
                           capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_the_whole_way(self):
        self.node.start()  # nobody receives yet: nothing waits
        events = self.node.events()
        self.addCleanup(events.end)
        self.assertIsNotNone(events.wait(["siem-away"]))
        self.assertIn("siem: receiver away", until(lambda: self.node.status()["condition"], "status says it"))
        self.copies(100)
        self.assertEqual(self.node.metric("bulkhead_siem_connected"), 0)
        self.r.start()
        self.assertIsNotNone(events.wait(["siem-back"]))

        def copied(direction):
            totals, _ = add_up(self.r.events())
            return [sum(v[i] for k, v in totals.items() if k[:2] == ("t", direction)) for i in (0, 1)]
        until(lambda: copied("h2d") == [100, 100 * 1000 + 99 * 50] and copied("d2h") == [100, 1000], "the copies' sums")
        until(lambda: self.node.metric("bulkhead_siem_behind") == 0 and self.node.metric("bulkhead_siem_connected") == 1, "the metrics")
        # The daemon dies and its exporter with it; the next goes on where the receiver had confirmed.
        self.node.kill()
        self.node.start()
        self.copies(50)
        self.assertEqual(self.node.stop(), 0)
        self.node.start()  # what the last one signed at its end
        until(lambda: copied("h2d")[0] == 150, "the rest")
        until(lambda: add_up(self.r.events())[0] == log_totals(self.log)[0], "the log's sums")

    def test_a_setting_that_cannot_work_is_said(self):
        for text, why in (('url = "udp://x"', "begins with none of"), ('url = "tls://x"', "name its authority"),
                          ('ca = "/x"', "url: missing"), ('url = "tcp://x"\nport = 1', "port")):
            self.node.config.write_text(f"[audit]\n[siem]\n{text}\n")
            r = subprocess.run([BUILD / "bin" / "bulkheadd", "--check-config", "--config", self.node.config], capture_output=True, text=True)
            self.assertEqual(r.returncode, 78)
            self.assertIn(why, r.stderr)
        # A file that is not there: the daemon serves, and says so.
        self.node.config.write_text('[audit]\n[siem]\nurl = "tls://127.0.0.1"\nca = "/does/not/exist.pem"\n')
        self.node.start()
        events = self.node.events()
        self.addCleanup(events.end)
        self.assertIn("/does/not/exist.pem", events.wait(["siem-failed"])["text"])


if __name__ == "__main__":
    main()

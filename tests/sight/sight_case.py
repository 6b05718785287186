"""What the tests of the sight child share: one fill_picture a test class, in a directory of its own."""
import http.client
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else pathlib.Path("build/release").resolve()
WATCHDOG_S = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=WATCHDOG_S)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WATCHDOG_S)
        self.sock.connect(self.path)


class Case(unittest.TestCase):
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.home = tempfile.TemporaryDirectory(prefix="bulkhead-sight-")
        cls.dir = pathlib.Path(cls.home.name)
        cls.dir.chmod(0o755)
        cls.metrics, cls.console = free_port(), free_port()
        cls.filler = subprocess.Popen([str(BUILD / "tests" / "fill_picture"), cls.home.name, "--metrics", str(cls.metrics),
                                       "--console", str(cls.console), *cls.flags],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.child = int(cls.filler.stdout.readline().split()[1])
        cls.url = (cls.dir / "console.url").read_text().strip()
        cls.token = cls.url.split("#token=")[1]

    @classmethod
    def tearDownClass(cls):
        cls.filler.stdin.close()
        cls.filler.wait(WATCHDOG_S)
        cls.filler.stdout.close()
        cls.home.cleanup()

    def order(self, text):
        self.filler.stdin.write(text + "\n")
        self.filler.stdin.flush()
        return self.filler.stdout.readline().split()

    def get(self, path, port=None, method="GET", host=None, **headers):
        c = UnixConnection(self.dir / "metrics.sock") if port is None else \
            http.client.HTTPConnection("127.0.0.1", port, timeout=WATCHDOG_S)
        c.putrequest(method, path, skip_host=host is not None, skip_accept_encoding=True)
        if host:
            c.putheader("Host", host)
        for k, v in headers.items():
            c.putheader(k.replace("_", "-"), v)
        c.endheaders()
        r = c.getresponse()
        body = r.read().decode()
        c.close()
        return r.status, dict(r.getheaders()), body

    def until(self, condition, what):
        end = time.monotonic() + WATCHDOG_S
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        self.fail("never: " + what)


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=1)

"""What the exporter's tests share: a log with random entries, a receiver that is rsyslog, and what a receiver must add up."""
import collections
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
from cli_case import BUILD  # noqa: E402
from node import until  # noqa: E402

EXPORTER = BUILD / "tests" / "siem_exporter"
SCHEMA = pathlib.Path(__file__).resolve().parent / "ocsf_1_8.json"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
RSYSLOGD = shutil.which("rsyslogd", path=PATH)
DIRECTIONS = ["none", "h2d", "d2h", "d2d", "p2p", "set", "h2h", "unknown"]
WATCHDOG_S = 180  # only ends what hangs
EPHEMERAL = 32768  # below it no outgoing connection takes a port by itself


def free_port():
    while True:
        port = random.randrange(20000, EPHEMERAL)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def log_totals(log):
    """What the log holds, read from its segments by hand: transfers by (tenant, direction, source, destination, grant), and the number of
    each kind of event that is told singly."""
    totals, singles = collections.defaultdict(lambda: [0, 0]), collections.Counter()
    sessions = {}
    for path in sorted((log / "segment").glob("*.data")):
        data, at = path.read_bytes(), 0
        while at + 2 <= len(data):
            (size,) = struct.unpack_from(">H", data, at)
            leaf = data[at + 2:at + 2 + size]
            at += 2 + size
            if leaf[0] == 0x1F:
                record = json.loads(leaf[1:])
                kind = record["record"]
                if kind == "session":
                    sessions[record["serial"]] = record
                singles[{"session": "SESSION", "session_end": "SESSION", "grant": "GRANT", "gap": "GAP", "finding": "FINDING",
                         "key": "", "read": ""}.get(kind, "REVOKE" if "revoked_grant" in record else "LOG")] += 1
                continue
            first, _, verdict, _, session, grant, _, _, _, _, _, _, low, high, source, target, _ = struct.unpack("<BBBBIIIHHQQQIHBBH", leaf)
            kind, direction, decision = first & 15, verdict & 7, verdict >> 3 & 3
            if kind in (2, 5):
                continue
            devices = sessions.get(session, {}).get("devices", [])
            name = {0xFF: "host", 0xFE: "remote"}
            if kind == 1:
                flow = (sessions.get(session, {}).get("tenant", ""), DIRECTIONS[direction],
                        name.get(source) or (devices[source] if source < len(devices) else f"device {source}"),
                        name.get(target) or (devices[target] if target < len(devices) else f"device {target}"), grant)
                totals[flow][0] += 1
                totals[flow][1] += high << 32 | low
            if kind == 4:
                singles["FAIL"] += 1
            elif kind == 6:
                singles["GAP"] += 1
            elif decision in (1, 3):
                singles["DENY"] += 1
            elif kind == 3:
                singles["MAP"] += 1
    del singles[""]
    return {k: tuple(v) for k, v in totals.items()}, singles


def add_up(events):
    """The same of (MSGID, event) pairs, after those with a uid that was there before are dropped."""
    totals, singles, seen = collections.defaultdict(lambda: [0, 0]), collections.Counter(), {}
    for msgid, event in events:
        uid = event["metadata"]["uid"]
        if uid in seen:
            assert seen[uid] == event, f"one uid, two events: {uid}"
            continue
        seen[uid] = event
        if msgid != "DMA":
            singles[msgid] += 1
        if msgid == "DMA" or (msgid == "DENY" and event["activity_id"] != 9):
            u = event["unmapped"]
            flow = (event["metadata"].get("tenant_uid", ""), u["direction"], u["source"], u["destination"], u["grant"])
            totals[flow][0] += event["count"]
            totals[flow][1] += event["size"]
    return {k: tuple(v) for k, v in totals.items()}, singles


class Rsyslog:
    """rsyslogd that writes what it parsed, one line a message, before it answers. Killed and started again at will."""

    def __init__(self, where, scheme, certificates=None, ask_client=False):
        self.where, self.port = where, free_port()
        self.out, self.log, self.process = where / "received", where / "rsyslog.log", None
        self.said = self.log.open("ab")
        config = ['global(workDirectory="%s" processInternalMessages="off")' % where, 'main_queue(queue.type="Direct")',
                  'template(name="seen" type="string" string="%pri%\\t%protocol-version%\\t%hostname%\\t%app-name%\\t%msgid%\\t'
                  '%structured-data%\\t%msg%\\n")']
        tls = scheme.endswith("tls")
        if scheme.startswith("relp"):
            config.append('module(load="imrelp"%s)' % (' tls.tlslib="openssl"' if tls else ""))
            line = 'input(type="imrelp" port="%d" address="127.0.0.1"' % self.port
            if tls:
                mode = ' tls.authMode="name" tls.permittedPeer="exporter"' if ask_client else ""
                line += ' tls="on" tls.caCert="%(ca)s" tls.myCert="%(cert)s" tls.myPrivKey="%(key)s"' % certificates + mode
            config.append(line + ")")
        elif tls:
            config.append('global(DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="%(ca)s" '
                          'DefaultNetstreamDriverCertFile="%(cert)s" DefaultNetstreamDriverKeyFile="%(key)s")' % certificates)
            mode = "x509/certvalid" if ask_client else "anon"
            config.append('module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="%s")' % mode)
            config.append('input(type="imtcp" port="%d" address="127.0.0.1")' % self.port)
        else:
            config.append('module(load="imtcp")')
            config.append('input(type="imtcp" port="%d" address="127.0.0.1")' % self.port)
        config.append('action(type="omfile" file="%s" template="seen" asyncWriting="off" flushOnTXEnd="on")' % self.out)
        (where / "rsyslog.conf").write_text("\n".join(config) + "\n")
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen([RSYSLOGD, "-n", "-iNONE", "-f", str(self.where / "rsyslog.conf")], stdin=subprocess.DEVNULL,
                                        stdout=self.said, stderr=subprocess.STDOUT)

        def listens():
            if self.process.poll() is not None:
                raise RuntimeError("rsyslogd ended: " + self.log.read_text())
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        until(listens, "rsyslogd listens")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def size(self):
        return self.out.stat().st_size if self.out.exists() else 0

    def lines(self):
        """Whole lines, split: what rsyslog took for the parts of the message. A kill may have torn one: rsyslog's own, not answered."""
        text = self.out.read_bytes() if self.out.exists() else b""
        for line in text.split(b"\n")[:-1]:
            parts = line.decode().split("\t")
            if len(parts) == 7 and parts[6].rstrip().endswith("}"):
                yield parts

    def events(self):
        out = []
        for parts in self.lines():
            try:
                out.append((parts[4], json.loads(parts[6])))
            except ValueError:
                pass  # torn by a kill, and the next line was written behind it
        return out


@unittest.skipUnless(EXPORTER.exists(), "not built")
class SiemCase(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory(prefix="bulkhead-siem-")
        self.addCleanup(self.home.cleanup)
        self.where = pathlib.Path(self.home.name)
        self.log, self.state = self.where / "audit", self.where / "state"
        self.state.mkdir()
        self.running = []
        self.addCleanup(self.end_all)
        if RSYSLOGD is None:
            self.fail("rsyslog is not installed: apt-get install rsyslog rsyslog-relp rsyslog-openssl")

    def end_all(self):
        for p in self.running:
            if p.poll() is None:
                p.kill()
            p.wait()

    def fill(self, seed, seconds, entries):
        subprocess.run([EXPORTER, "--fill", self.log, str(seed), str(seconds), str(entries)], check=True)
        return log_totals(self.log)

    def receiver(self, scheme, **more):
        r = Rsyslog(self.where, scheme, **more)
        self.addCleanup(r.said.close)
        r.start()
        self.running.append(r.process)
        return r

    def restart(self, receiver):
        receiver.start()
        self.running.append(receiver.process)

    def export(self, url, *words):
        with (self.where / "exporter.log").open("ab") as said:
            p = subprocess.Popen([EXPORTER, self.log, self.state, url, *words], stdin=subprocess.DEVNULL, stderr=said)
        self.running.append(p)
        return p

    def page(self):
        """What the exporter reports: state, events sent, confirmed; leaves signed, sent, confirmed, missed; text."""
        path = self.state / "page"
        data = path.read_bytes() if path.exists() else b""
        if len(data) < 240:
            return None
        _, state, _, sent, confirmed, _, connections, signed, read, kept, missed = struct.unpack_from("<QII8Q", data)
        return {"state": state, "sent": sent, "confirmed": confirmed, "connections": connections, "signed": signed, "read": read,
                "kept": kept, "missed": missed, "text": data[80:240].split(b"\0")[0].decode()}

    def equal(self, receiver, wanted, last):
        """A condition: its sums are these. It looks only where something came: the looking itself takes time."""
        seen = [-1]

        def look():
            size = receiver.size()
            if size == seen[0]:
                return last[0] == wanted
            seen[0] = size
            last[0] = add_up(receiver.events())
            return last[0] == wanted
        return look

    def arrives(self, receiver, wanted):
        """Waits until the receiver's sums are the log's."""
        last = [None]
        try:
            until(self.equal(receiver, wanted, last), "the receiver has what the log has", WATCHDOG_S)
        except RuntimeError:
            self.assertEqual(last[0][1], wanted[1])
            self.assertEqual(last[0][0], wanted[0])
            raise

"""events, usage and status's strays: from files without a daemon, and from one that answers (played by this test)."""
import csv
import io
import json
import os
import pathlib
import socket
import struct
import threading
import time
import uuid

from cli_case import Case, main

HEADER = struct.Struct("<IHHIIIIQ")
EVENT = struct.Struct("<QqIIIIQ16s64s160s")
ROW = struct.Struct("<64s16sqqQQQQQQQ")
STRAY = struct.Struct("<IIQ16sQII32s64s")
NODE = struct.Struct("<16s64sIIQQQQQII")
NONE = (1 << 64) - 1
GPU = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
KINDS = {7: "list", 8: "events", 9: "usage"}


def event(number, severity=0, tenant="", text="text", kind=14, at=None):
    ns = int((time.time() if at is None else at) * 1e9)
    return EVENT.pack(number, ns, kind, severity, 7, 1000, 0, GPU.bytes, tenant.encode(), text.encode())


def row(tenant, byte_seconds, gpu_ms=NONE, counted_ms=0):
    return ROW.pack(tenant.encode(), GPU.bytes, 1795330800, 1795334400, byte_seconds, 3600_000, gpu_ms, counted_ms, NONE, 1 << 30, 2)


class Daemon:
    """Answers each request with the messages made for it. Messages of a reply: (body, more)."""

    def __init__(self, case, **replies):
        case.dir.mkdir(mode=0o700, exist_ok=True)
        self.replies, self.asked = replies, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(case.dir / "control.sock"))
        self.socket.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        case.addCleanup(self.socket.close)

    def serve(self):
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                while message := peer.recv(1 << 16):
                    magic, protocol, kind, _, sequence, *_ = HEADER.unpack_from(message)
                    if kind not in KINDS:  # as an older daemon: hangs up on what it does not know
                        break
                    self.asked.append((KINDS.get(kind), message))
                    for body, more in self.replies.get(KINDS.get(kind), []):
                        header = HEADER.pack(magic, protocol, kind | 0x8000, HEADER.size + len(body), sequence, 0, more, 0)
                        peer.send(header + body)
                    if self.replies.get("hang_up"):
                        break


def events_reply(*events):
    return struct.pack("<II", len(events), 0) + b"".join(events)


def usage_reply(*rows):
    return struct.pack("<II", len(rows), 0) + b"".join(rows)


class Files(Case):
    def state(self):
        at = pathlib.Path(self.home.name) / ".local" / "state" / "bulkhead"
        if os.geteuid() == 0:  # root's is the system's: the simulator's folder stands for it
            at = self.dir / "state"
        at.mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o700) if self.dir.exists() else None
        return at

    def line(self, number, **more):
        fields = {"id": number, "time": "2026-11-22T07:05:40.000000001Z", "kind": "drift", "severity": "warning",
                  "text": f"event {number}", **more}
        return json.dumps(fields) + "\n"

    def test_events_of_both_files_and_it_says_so(self):
        at = self.state()
        (at / "events.1.jsonl").write_text(self.line(1) + self.line(2))
        (at / "events.jsonl").write_text(self.line(3, tenant="a") + "rubbish\n" + self.line(4)[:20])
        r = self.call("events", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        got = [json.loads(line) for line in r.stdout.splitlines()]
        self.assertEqual([e["id"] for e in got], [1, 2, 3])
        self.assertEqual({e["schema"] for e in got}, {1})
        self.assertIn("no daemon answers", self.one_line(r.stderr))
        self.assertIn("event 2", self.call("events").stdout)
        self.assertEqual(len(self.call("events", "--json", "--tenant", "a").stdout.splitlines()), 1)
        self.assertEqual(self.call("events", "--json", "--severity", "alarm").stdout, "")
        self.assertEqual(len(self.call("events", "--json", "--since", "2026-11-22").stdout.splitlines()), 3)
        self.assertEqual(self.call("events", "--json", "--since", "2026-11-24").stdout, "")

    def test_nothing_there(self):
        for command in ("events", "usage"):
            r = self.call(command)
            self.assertEqual((r.returncode, r.stdout), (1, ""))
            self.assertIn("no daemon answers", self.one_line(r.stderr))
        self.assertIn("bulkheadd", self.one_line(self.call("events", "--follow").stderr))

    def test_bad_options(self):
        for words in (["events", "--since", "yesterday"], ["events", "--severity", "bad"], ["usage", "--since", "7"],
                      ["usage", "--json", "--csv"], ["events", "--since", "2026-13-01"]):
            r = self.call(*words)
            self.assertEqual(r.returncode, 2, words)
            self.one_line(r.stderr)

    def test_a_usage_row_in_both_files_counts_once(self):
        at = self.state()
        usage_row = {"row": 1, "from": 100, "to": 3600, "tenant": "a", "gpu": str(GPU), "byte_seconds": 3600 << 30,
                     "held_ms": 5, "gpu_ms": None, "moved_bytes": None, "peak_bytes": 9, "refused": 0}
        (at / "usage.jsonl").write_text(json.dumps(usage_row) + "\n")
        running = [usage_row, {**usage_row, "row": 2, "gpu_ms": 10}]
        (at / "usage.open.json").write_text('{"schema":1,"next_row":3,"rows":[\n' + ",\n".join(map(json.dumps, running)) +
                                            "\n]}\n")
        report = json.loads(self.call("usage", "--json").stdout)
        self.assertEqual(report["schema"], 1)
        self.assertEqual(len(report["rows"]), 2)
        self.assertEqual(report["totals"][0]["byte_seconds"], 2 * 3600 << 30)
        self.assertEqual(report["totals"][0]["gpu_ms"], 10)
        self.assertIsNone(report["totals"][0]["moved_bytes"])
        table = self.call("usage").stdout.splitlines()
        self.assertEqual(table[-1].split()[2], "2.000")
        self.assertEqual(table[-1].split()[5], "-")


class FromADaemon(Case):
    def test_events(self):
        Daemon(self, events=[(events_reply(event(1), event(2, 2, "a")), 1), (events_reply(event(3, 3, "b")), 0)])
        r = self.call("events", "--json")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual([json.loads(line)["id"] for line in r.stdout.splitlines()], [1, 2, 3])
        r = self.call("events", "--json", "--severity", "warning", "--tenant", "b")
        self.assertEqual([json.loads(line)["id"] for line in r.stdout.splitlines()], [3])

    def test_follow_prints_each_message_and_ends_with_the_daemon(self):
        daemon = Daemon(self, events=[(events_reply(event(1)), 0), (events_reply(event(2)), 0)], hang_up=True)
        r = self.call("events", "--follow", "--json")
        self.assertEqual([json.loads(line)["id"] for line in r.stdout.splitlines()], [1, 2])
        self.assertEqual(r.returncode, 1)
        self.one_line(r.stderr)
        self.assertEqual(struct.unpack_from("<QI", daemon.asked[0][1], HEADER.size), (0, 1))

    def test_eighty_columns_and_no_control_characters(self):
        Daemon(self, events=[(events_reply(event(1, 2, "t" * 63, "word " * 31), event(2, 0, "", "x" * 159)), 0)],
               usage=[(usage_reply(row("u" * 63, 1 << 60, 1 << 40)), 0)],
               list=[(struct.pack("<IIII", 0, 0, 1, 0) + STRAY.pack(9, 1000, 1, GPU.bytes, 543162368, 1, 4,
                                                                    b"evil\x1b[31m" + b"y" * 20, b""), 0)])
        for words in (["events"], ["usage"], ["status"]):
            out = self.call(*words).stdout
            for line in out.splitlines():
                if str(self.dir) not in line:  # a path is as long as it is
                    self.assertLessEqual(len(line), 80, line)
                self.assertNotIn("\x1b", line)
        self.assertIn("word word", self.call("events").stdout)

    def test_usage_over_several_messages(self):
        daemon = Daemon(self, usage=[(usage_reply(row("a", 3600 << 30)), 1), (usage_reply(row("b", 5, 1500), row("a", 7)), 0)])
        report = json.loads(self.call("usage", "--json", "--since", "2026-11-22T07:05:00Z").stdout)
        self.assertEqual(report["source"], "daemon")
        self.assertEqual([t["byte_seconds"] for t in report["totals"]], [(3600 << 30) + 7, 5])
        self.assertEqual(struct.unpack_from("<q", daemon.asked[0][1], HEADER.size)[0], 1795331100)
        rows = list(csv.DictReader(io.StringIO(self.call("usage", "--csv").stdout)))
        self.assertEqual([r["tenant"] for r in rows], ["a", "b", "a"])
        self.assertEqual([r["gpu_ms"] for r in rows], ["", "1500", ""])
        r = self.call("usage", "--csv", "--tenant", "b")
        self.assertEqual(len(r.stdout.splitlines()), 2, r)

    def test_usage_says_who_counted_the_gpu_time(self):
        Daemon(self, usage=[(usage_reply(row("n", 1, 100), row("l", 1, 100, 100), row("b", 1, 100, 60), row("u", 1)), 0)])
        rows = json.loads(self.call("usage", "--json").stdout)["totals"]
        self.assertEqual({r["tenant"]: (r["gpu_source"], r["counted_ms"]) for r in rows},
                         {"n": ("nvml", 0), "l": ("library", 100), "b": ("both", 60), "u": ("none", 0)})
        text = self.call("usage").stdout
        self.assertIn("* counted by the library", text)
        self.assertRegex(text, r"(?m)^l .* 0\.1\* ")
        self.assertRegex(text, r"(?m)^n .* 0\.1 ")

    def test_strays_in_status(self):
        strays = [STRAY.pack(9, 1000, 1, GPU.bytes, 543162368, 1, 4, b"miner", b""),
                  STRAY.pack(10, 1000, 1, GPU.bytes, 100 << 20, 2, 3, b"train", b"team-a"),
                  STRAY.pack(11, 1000, 1, bytes(16), 0, 3, 2, b"monitor", b"")]
        node = NODE.pack(GPU.bytes, b"H200", 0, 0, 1, 1, 1, 1, 1, 0, 0)
        Daemon(self, list=[(struct.pack("<IIII", 0, 1, 3, 0) + node + b"".join(strays), 0)])
        report = self.status()
        self.assertEqual([(s["kind"], s["pid"], s["bytes"], s["tenant"]) for s in report["strays"]],
                         [("unregistered", 9, 543162368, ""), ("drift", 10, 100 << 20, "team-a"), ("holds-node", 11, 0, "")])
        out = self.call("status").stdout
        self.assertIn("bypass  9 miner (uid 1000)", out)
        self.assertIn("more than team-a", out)
        self.assertIn("11 monitor (uid 1000)", out)

    def test_a_daemon_that_hangs_up_does_not_spoil_status(self):
        Daemon(self, hang_up=True)
        r = self.call("status", "--json")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertIsNone(json.loads(r.stdout)["strays"])

    def test_rubbish_is_refused(self):
        Daemon(self, events=[(struct.pack("<II", 5, 0) + event(1), 0)], usage=[(b"", 0)])
        for command in ("events", "usage"):
            r = self.call(command)
            self.assertEqual(r.returncode, 1)
            self.one_line(r.stderr)


if __name__ == "__main__":
    main()

"""Receiver and exporter are killed: after what is repeated is dropped, the receiver has what the log has. The wrong variants are caught."""
import random
import socket
import struct
import threading
import unittest

from cli_case import main
from siem_case import SiemCase, add_up, until


def whole_frames(data, relp):
    """The messages in a byte stream, and for RELP their numbers."""
    at, out = 0, []
    while True:
        if relp:
            head = data[at:at + 64].split(b" ", 3)
            if len(head) < 3 or (len(head) == 3 and b"\n" not in head[2]):
                return out, at
            number, command = head[0], head[1]
            size = head[2] if len(head) == 4 else head[2].split(b"\n")[0]
            begin = at + len(number) + len(command) + len(size) + 3
            end = begin + int(size) + 1
            if len(data) < end and int(size):
                return out, at
            out.append((int(number), command, data[begin:end - 1]))
            at = end if int(size) else begin
        else:
            size, space, _ = data[at:at + 8].partition(b" ")
            if not space or len(data) < at + len(size) + 1 + int(size):
                return out, at
            at += len(size) + 1 + int(size)
            out.append((0, b"syslog", data[at - int(size):at]))


class Forgetful:
    """A receiver that reads, answers if it is told to, and then forgets: closes without having kept what it read. A small socket buffer."""

    def __init__(self, relp, read_bytes):
        self.relp, self.read_bytes, self.got = relp, read_bytes, 0
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        from siem_case import free_port
        self.port = free_port()
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.listen(1)
        self.done = threading.Event()
        self.over = threading.Event()  # told to end
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        s, _ = self.socket.accept()
        data, opened = b"", False
        while self.got < self.read_bytes:
            part = s.recv(min(65536, self.read_bytes - self.got))
            if not part:
                break
            self.got += len(part)
            data += part
            if self.relp and not opened and b"\n" in data:
                s.sendall(b"1 rsp 6 200 OK\n")
                opened = True
        self.done.set()
        self.over.wait()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        self.socket.close()


class Killed(SiemCase):
    SEED = random.randrange(1 << 30)

    def setUp(self):
        super().setUp()
        print("seed", self.SEED, flush=True)
        self.random = random.Random(self.SEED)

    def storm(self, scheme, *words):
        """Kills one of the two at each threshold of what has arrived; never by the clock."""
        wanted = self.fill(self.random.randrange(1000), 12, 120)
        r = self.receiver(scheme)
        p = self.export(r.url, *words)
        at = 0
        for _ in range(5):
            at = max(at, r.size()) + self.random.randrange(1, 100_000)  # bytes; what is sent again counts, too
            complete = self.equal(r, wanted, [None])
            until(lambda: r.size() >= at or complete(), "more arrives")
            if self.random.random() < 0.6:
                r.kill()
                self.restart(r)
            else:
                p.kill()
                p.wait()
                p = self.export(r.url, *words)
        self.arrives(r, wanted)

    def test_relp(self):
        self.storm("relp")

    def test_tcp(self):
        self.storm("tcp")

    def forget(self, relp, read_bytes, *words):
        """A receiver that forgets, then the exporter is killed, then a real one: what is missing there?"""
        wanted = self.fill(7, 20, 150)
        f = Forgetful(relp, read_bytes)
        p = self.export(f"{'relp' if relp else 'tcp'}://127.0.0.1:{f.port}", *words)
        f.done.wait()
        return wanted, f, p

    def then_rsyslog(self, f, p, scheme):
        p.kill()
        p.wait()
        f.over.set()
        r = self.receiver(scheme)
        self.export(r.url)
        return r

    def test_relp_not_answered_is_sent_again(self):
        wanted, f, p = self.forget(True, 20_000)
        until(lambda: self.page()["sent"] >= 128, "its window is full")
        self.assertEqual(self.page()["kept"], 0)
        self.arrives(self.then_rsyslog(f, p, "relp"), wanted)

    def test_relp_keeping_before_the_answer_is_caught(self):
        wanted, f, p = self.forget(True, 20_000, "early")
        until(lambda: self.page()["kept"] > 0, "it has kept what nobody answered for")
        r = self.then_rsyslog(f, p, "relp")
        until(lambda: self.page()["kept"] == self.page()["signed"] and self.page()["signed"] > 0, "it thinks all is sent")
        self.assertNotEqual(add_up(r.events()), wanted)

    def test_tcp_what_lies_in_the_socket_is_sent_again(self):
        # The receiver's program read 100,000 bytes of what its kernel acknowledged; the overlap covers the rest.
        wanted, f, p = self.forget(False, 100_000, "overlap=4194304")
        until(lambda: self.page()["sent"] > 0, "it sends")
        f.over.set()
        self.assertEqual(self.page()["kept"], 0)
        self.arrives(self.then_rsyslog(f, p, "tcp"), wanted)

    def test_tcp_without_an_overlap_is_caught(self):
        wanted, f, p = self.forget(False, 100_000, "overlap=0")
        until(lambda: self.page()["kept"] > 0, "it has kept what only the kernel acknowledged")
        r = self.then_rsyslog(f, p, "tcp")
        until(lambda: self.page()["sent"] > 0 and self.page()["read"] == self.page()["signed"], "the rest is sent")
        self.assertNotEqual(add_up(r.events()), wanted)  # the log's beginning never came


if __name__ == "__main__":
    main()

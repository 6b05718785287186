"""Receivers that close, send rubbish, flood, never answer: the exporter lives, keeps nothing that was not confirmed, and stays small; the
log is written meanwhile."""
import os
import pathlib
import socket
import threading

from cli_case import main
from siem_case import SiemCase, free_port, until


class Peer:
    """Accepts one connection after another and does with it what `way` says."""

    def __init__(self, way):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = free_port()
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.listen(8)
        self.way, self.count, self.kept = way, 0, []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            self.kept.append(s)
            threading.Thread(target=self.one, args=(s,), daemon=True).start()

    def one(self, s):
        try:
            self.way(s)
        except OSError:
            pass

    def close(self):
        self.socket.close()
        for s in self.kept:
            s.close()


def closes(s):
    s.close()


def rubbish(s):
    s.sendall(os.urandom(4096))


def http(s):
    s.recv(100)
    s.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def floods(s):
    while True:
        s.sendall(b"1" * 65536)


def opens_and_never_answers(s):
    s.recv(100)
    s.sendall(b"1 rsp 6 200 OK\n")
    while s.recv(65536):
        pass


def refuses(s):
    s.recv(100)
    s.sendall(b"1 rsp 6 200 OK\n")
    s.recv(100)
    s.sendall(b"2 rsp 6 500 no\n")


def long_answer(s):
    s.recv(100)
    s.sendall(b"1 rsp 999999999 200 OK" + b"x" * 100_000)


def never_reads(s):
    threading.Event().wait()


class Hostile(SiemCase):
    def against(self, scheme, way, connections=3, words=("answer_ms=200",)):
        wanted = self.fill(5, 10, 200)
        peer = Peer(way)
        p = self.export(f"{scheme}://127.0.0.1:{peer.port}", *words)
        until(lambda: peer.count >= connections, "it tries again")
        self.assertIsNone(p.poll())
        status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
        most_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        self.assertLess(most_kib, 64 << 10)
        self.assertEqual(self.page()["kept"], 0)
        p.kill()
        p.wait()
        peer.close()
        return wanted

    def test_closes(self):
        self.against("relp", closes)

    def test_rubbish(self):
        self.against("relp", rubbish)

    def test_speaks_something_else(self):
        self.against("relp", http)

    def test_floods(self):
        self.against("relp", floods)

    def test_floods_tcp(self):
        self.against("tcp", floods, connections=1)

    def test_never_answers(self):
        self.against("relp", opens_and_never_answers)

    def test_refuses(self):
        self.against("relp", refuses)

    def test_an_answer_without_end(self):
        self.against("relp", long_answer)

    def test_no_tls_there(self):
        import siem_receiver
        files = siem_receiver.certificates(self.where)
        self.against("relp+tls", rubbish, words=(f"ca={files['ca']}",))

    def test_never_reads_tcp_then_a_real_one(self):
        wanted = self.against("tcp", never_reads, connections=1, words=("answer_ms=200", "overlap=8388608"))
        r = self.receiver("tcp")
        self.export(r.url)
        self.arrives(r, wanted)


if __name__ == "__main__":
    main()

"""bulkhead top: as text, as JSON, and on an 80x24 terminal."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from cli_case import BULKHEAD, GIB, WATCHDOG_S, Case, main


class Screen:
    """What a terminal would show of the sequences that curses sends for TERM=xterm; one it does not know fails the test."""

    def __init__(self, rows, columns):
        self.size(rows, columns)
        self.rest, self.coloured = "", False

    def size(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.cells = [[" "] * 256 for _ in range(64)]  # larger: what is under way when it shrinks still has a place
        self.y = self.x = 0
        self.edges = (0, rows - 1)  # what scrolls

    def scroll(self, at, gone):
        self.cells.insert(at, [" "] * 256)
        del self.cells[gone]

    def feed(self, text):
        text, self.rest = self.rest + text, ""
        i = 0
        while i < len(text):
            c = text[i]
            if c == "\x1b":
                m = re.compile(r"\x1b(?:\[([?0-9;]*)([A-Za-z])|[()][A-Za-z0-9]|[=>78DM])").match(text, i)
                if not m:
                    self.rest = text[i:]
                    return
                if m[0] == "\x1bM" and self.y == self.edges[0]:
                    self.scroll(self.y, self.edges[1] + 1)
                elif m[0] == "\x1bM":
                    self.y -= 1
                if m[2]:
                    self.control(m[2], [int(p) for p in m[1].lstrip("?").split(";") if p])
                i = m.end()
                continue
            if c == "\r":
                self.x = 0
            elif c == "\n":
                if self.y == self.edges[1]:
                    self.scroll(self.y + 1, self.edges[0])
                else:
                    self.y = min(self.y + 1, self.rows - 1)
            elif c == "\b":
                self.x = max(self.x - 1, 0)
            elif c == "\t":
                self.x = min((self.x // 8 + 1) * 8, self.columns - 1)
            elif c >= " ":
                if self.x < self.columns:
                    self.cells[self.y][self.x] = c
                self.x += 1
            i += 1

    def control(self, what, p):
        n = p[0] if p else 1
        if what == "H":
            self.y, self.x = (p[0] - 1 if p else 0), (p[1] - 1 if len(p) > 1 else 0)
        elif what == "J":
            for y in range(self.rows) if p[:1] == [2] else range(self.y, self.rows):
                for x in range(self.x if y == self.y and p[:1] != [2] else 0, self.columns):
                    self.cells[y][x] = " "
        elif what == "K":
            for x in range(0, self.x + 1) if p[:1] == [1] else range(self.x, self.columns):
                self.cells[self.y][x] = " "
        elif what == "A":
            self.y -= n
        elif what == "B":
            self.y += n
        elif what == "C":
            self.x += n
        elif what == "D":
            self.x -= n
        elif what == "d":
            self.y = n - 1
        elif what == "G":
            self.x = n - 1
        elif what == "X":
            for x in range(self.x, min(self.x + n, self.columns)):
                self.cells[self.y][x] = " "
        elif what == "P":
            row = self.cells[self.y]
            self.cells[self.y] = row[:self.x] + row[self.x + n:] + [" "] * n
        elif what == "b":  # the last character again
            for _ in range(n):
                self.cells[self.y][self.x] = self.cells[self.y][self.x - 1]
                self.x += 1
        elif what == "m":
            self.coloured |= any(30 <= v <= 47 for v in p)
        elif what == "r":
            self.edges = (p[0] - 1, p[1] - 1) if len(p) == 2 else (0, self.rows - 1)
            self.y = self.x = 0
        elif what not in "hlst":
            raise AssertionError("sequence not modelled: " + what)

    def lines(self):
        return ["".join(row[:self.columns]).rstrip() for row in self.cells[:self.rows]]

    def text(self):
        return "\n".join(self.lines())


class Top(Case):
    def test_batch(self):
        w = self.worker("--tenant", "a" * 63, "--memory", "2GiB")
        self.tell(w, "fill")
        r = self.call("top", "--batch", "-n", "2", "-d", "0.1")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(r.stdout.count("bulkhead top"), 2)
        self.assertRegex(r.stdout, r"\n  %d bulkhead +2 GiB\n" % w.worker_pid)
        for line in r.stdout.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_without_a_terminal_one_round(self):
        r = self.call("top")
        self.assertEqual((r.returncode, r.stderr, r.stdout.count("bulkhead top")), (0, "", 1))
        self.assertIn("No tenants", r.stdout)
        self.assertFalse(self.dir.joinpath("tenants").exists())

    def test_json_agrees_with_status(self):
        w = self.worker("--tenant", "a", "--memory", "2GiB")
        self.tell(w, "fill")
        lines = self.call("top", "--json", "-n", "2", "-d", "0.1").stdout.splitlines()
        self.assertEqual(len(lines), 2)
        t = json.loads(lines[0])
        s = self.status()["tenants"][0]
        self.assertEqual((t["schema"], t["daemon"], t["strays"]), (1, False, []))
        mine = t["tenants"][0]
        self.assertEqual((mine["name"], mine["from"]), ("a", "region"))
        for key in ("limit_bytes", "used_bytes", "other_bytes"):
            self.assertEqual(mine["devices"][0][key], s["devices"][0][key])
        self.assertIsNone(mine["devices"][0]["share_percent"])
        self.assertEqual(mine["processes"][0]["command"], "bulkhead")
        self.assertEqual(t["gpus"][0]["promised_bytes"], 2 * GIB)

    def test_a_closed_pipe_ends_it(self):
        p = subprocess.Popen([BULKHEAD, "top", "--batch", "-d", "0.1"], env=self.env, stdout=subprocess.PIPE)
        self.addCleanup(p.kill)
        p.stdout.readline()
        p.stdout.close()
        self.assertNotEqual(p.wait(WATCHDOG_S), 0)

    def test_usage(self):
        for words in (("-d", "0"), ("-n", "0"), ("-d", "x")):
            self.assertEqual(self.call("top", *words).returncode, 2, words)

    def on_terminal(self, rows=24, columns=80, **env):
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        p = subprocess.Popen([BULKHEAD, "top", "-d", "0.2"], env={**self.env, "TERM": "xterm", "LC_ALL": "C.UTF-8", **env},
                             stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True)
        os.close(slave)
        self.addCleanup(p.stderr.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p, master, Screen(rows, columns)

    def shows(self, terminal, condition, what):
        p, master, screen = terminal
        end = time.monotonic() + WATCHDOG_S
        while time.monotonic() < end:
            if condition(screen):
                return
            if select.select([master], [], [], 0.2)[0]:
                try:
                    screen.feed(os.read(master, 65536).decode(errors="replace"))
                except OSError:
                    break  # it has ended
        self.fail(f"never: {what}; the screen is\n{screen.text()}")

    def test_screen(self):
        for name, size in (("small", "1GiB"), ("large", "3GiB")):
            w = self.worker("--tenant", name, "--memory", size)
            self.tell(w, "fill")
        t = self.on_terminal()
        p, master, screen = t
        order = lambda s: [l.split()[0] for l in s.lines() if l.startswith(("small", "large"))]
        self.shows(t, lambda s: order(s) == ["large", "small"] and "q end" in s.lines()[23], "both tenants, the larger first")
        self.assertTrue(screen.lines()[0].startswith("bulkhead top"))
        self.assertIn("3 GiB", screen.text())
        self.assertTrue(screen.coloured)
        os.write(master, b"n")
        self.shows(t, lambda s: "(name)" in s.text() and order(s) == ["large", "small"], "sorted by name")
        os.write(master, b"p")
        self.shows(t, lambda s: not re.search(r"^  \d+ bulkhead", s.text(), re.M), "no processes")
        os.write(master, b"h")
        self.shows(t, lambda s: "sort by limit" in s.text(), "help")
        os.write(master, b"h")
        self.shows(t, lambda s: "sort by limit" not in s.text() and "small" in s.text(), "help gone")
        screen.size(10, 60)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
        os.kill(p.pid, signal.SIGWINCH)
        self.shows(t, lambda s: "q end" in s.lines()[9], "the last line at its new place")
        os.write(master, b"q")
        self.assertEqual(p.wait(WATCHDOG_S), 0)
        self.assertEqual(p.stderr.read(), b"")

    def test_no_colour(self):
        t = self.on_terminal(NO_COLOR="1")
        self.shows(t, lambda s: "q end" in s.text() and "bulkhead top" in s.text(), "the screen")
        self.assertFalse(t[2].coloured)
        os.write(t[1], b"q")
        self.assertEqual(t[0].wait(WATCHDOG_S), 0)

    def test_an_unknown_terminal(self):
        p, _, _ = self.on_terminal(TERM="no-such-terminal")
        self.assertEqual(p.wait(WATCHDOG_S), 1)
        self.assertIn("--batch", self.one_line(p.stderr.read().decode()))


if __name__ == "__main__":
    main()

"""A bulkheadd of one's own, and what it shows: for check_daemon.py here and for tests/e2e/daemon_live.py.

BULKHEAD names the command line, bulkheadd lies beside it; BULKHEAD_DIR (made if it is not there) is served. With BULKHEAD_SIM it is
a simulated node."""
import calendar
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
WATCHDOG_S = 60  # only ends what hangs


def until(condition, what, watchdog_s=WATCHDOG_S):
    """The condition's first true value."""
    end = time.monotonic() + watchdog_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise RuntimeError(f"never: {what}")


def ns_of(text):
    """An event's time, nanoseconds since the epoch."""
    whole, fraction = text.rstrip("Z").split(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction)


class Events:
    """`bulkhead events --follow` of the running daemon; ends with it."""

    def __init__(self, node):
        self.seen, self.changed = [], threading.Condition()
        self.process = subprocess.Popen([node.bulkhead, "events", "--follow", "--json"], env=node.env, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.seen.append(json.loads(line))
                self.changed.notify_all()

    def of(self, kinds, pid=None, key=None):
        return [e for e in list(self.seen) if e["kind"] in kinds and pid in (None, e.get("pid")) and (key is None or key in e)]

    def wait(self, kinds, pid=None, key=None, watchdog_s=WATCHDOG_S):
        """The first event of these kinds, about this process and with this key if they are named; None: it never came."""
        with self.changed:
            self.changed.wait_for(lambda: self.of(kinds, pid, key), watchdog_s)
            return next(iter(self.of(kinds, pid, key)), None)

    def end(self):
        self.process.kill()
        self.thread.join()
        self.process.communicate()


class Node:
    def __init__(self, bulkhead, env, sight=True):
        self.bulkhead, self.env, self.sight = str(bulkhead), {**env}, sight
        self.dir = pathlib.Path(self.env["BULKHEAD_DIR"])
        self.dir.mkdir(mode=0o700, exist_ok=True)
        self.config = self.dir.parent / (self.dir.name + ".toml")  # not the machine's own
        self.config.write_text("")
        self.process, self.starts, self.clients = None, 0, []

    # ---- the daemon ----
    def start(self):
        sim = ["--sim", self.env["BULKHEAD_SIM"]] if self.env.get("BULKHEAD_SIM") else []
        sight = [] if self.sight else ["--no-sight"]
        program = pathlib.Path(self.bulkhead).resolve().parent / "bulkheadd"
        self.process = subprocess.Popen([program, "--config", str(self.config), *sim, *sight], env=self.env, stdin=subprocess.DEVNULL)
        self.starts += 1
        until(lambda: self.answers() or self.process.poll() is not None, "control.sock answers")
        if self.process.poll() is not None:
            raise RuntimeError(f"bulkheadd ended with {self.process.returncode}")

    def answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            return s.connect_ex(str(self.dir / "control.sock")) == 0

    def kill(self):
        """As a crash: SIGKILL. False: it had ended before."""
        alive = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        return alive

    def stop(self):
        """SIGTERM; its exit code."""
        for one in self.clients:
            if one.poll() is None and not one.stdin.closed:
                one.stdin.close()  # no more orders: a `serve` ends
            try:
                one.wait(5)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
            one.stdout.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WATCHDOG_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def events(self):
        return Events(self)

    # ---- its tenants ----
    def run(self, *words, tenant="t", memory="10GiB", program="in_daemon.py"):
        """A program of this folder as a process of the tenant: `bulkhead run -- python3 PROGRAM WORDS`."""
        size = ["--memory", memory] if memory else []
        argv = [self.bulkhead, "run", "-q", "--tenant", tenant, *size, "--", sys.executable, str(HERE / program), *words]
        p = subprocess.Popen(argv, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.clients.append(p)
        return p

    def preloaded(self, *words, tenant="t", memory="10GiB"):
        """The same, of the tenant by the library alone: no `run` above it."""
        library = pathlib.Path(self.bulkhead).resolve().parent.parent / "lib" / "libbulkhead.so"
        return self.bare(*words, LD_PRELOAD=str(library), BULKHEAD_TENANT=tenant, BULKHEAD_MEMORY=memory)

    def bare(self, *words, **variables):
        """The same, of no tenant."""
        env = {**{k: v for k, v in self.env.items() if k != "LD_PRELOAD"}, **variables}
        if env.get("BULKHEAD_SIM"):
            env["LD_LIBRARY_PATH"] = str(pathlib.Path(self.bulkhead).resolve().parent.parent / "sim")
        p = subprocess.Popen([sys.executable, str(HERE / "in_daemon.py"), *words], env=env, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        self.clients.append(p)
        return p

    def call(self, *words):
        return subprocess.run([self.bulkhead, *words], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=WATCHDOG_S)

    # ---- what it shows ----
    def status(self, tenant=None):
        said = json.loads(self.call("status", "--json").stdout)
        return said if tenant is None else next((t for t in said["tenants"] if t["name"] == tenant), None)

    def used(self, tenant="t"):
        t = self.status(tenant)
        return None if t is None else sum(d["used_bytes"] for d in t["devices"])

    def strays(self, pid):
        return [s for s in self.status().get("strays") or [] if s["pid"] == pid]

    def metrics(self):
        """The text of /metrics; the daemon's child begins to listen a moment after the daemon answers."""
        return until(self.read_metrics, "metrics.sock answers").decode()

    def read_metrics(self):
        parts = []
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(WATCHDOG_S)
            if s.connect_ex(str(self.dir / "metrics.sock")) != 0:
                return b""
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while part := s.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.metrics(), re.M)
        return float(found.group(1)) if found else None

    def processes(self):
        """The daemon's pid and those of its children."""
        found = [self.process.pid]
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # gone meanwhile
            if parent == self.process.pid:
                found.append(int(stat.parent.name))
        return found


def ask(client, order):
    """One order to a `serve`; its answer as a number."""
    client.stdin.write(order + "\n")
    client.stdin.flush()
    line = client.stdout.readline()
    if not line:
        raise RuntimeError(f"the program ended at '{order}'")
    return int(line)


def ready(client):
    """(pid, when it had joined in ns since the epoch) of a `serve`."""
    word, *numbers = client.stdout.readline().split() or ["ended"]
    if word != "ready":
        raise RuntimeError("the program made no context")
    return [int(n) for n in numbers]


def lead_deaths(node, events, racing, quiet, size):
    """Runs `deaths` and lets it go on when the daemon has seen what is to be seen. Its records, each with the event that told of
    the death in `told` (None where nobody waited for it)."""
    crew, records = node.run("deaths", str(racing), str(quiet), str(size)), []
    for line in crew.stdout:
        if line.startswith("holding"):
            events.wait(["process-joined"], int(line.split()[1]), watchdog_s=10)
        elif line.startswith("{"):
            record = json.loads(line)
            if record.get("done"):
                break
            told = None if record["racing"] else events.wait(["process-reaped", "process-ended"], record["pid"], watchdog_s=10)
            records.append({**record, "told": told})
        else:
            continue
        crew.stdin.write("\n")
        crew.stdin.flush()
    crew.communicate(timeout=WATCHDOG_S)
    for record in records:
        if record["told"] is None:
            record["told"] = events.wait(["process-reaped", "process-ended"], record["pid"], watchdog_s=5)
    return records


def lead_storm(node, kills, at_a_time, seconds, seed, restart_s, started=None):
    """A storm in tenant t with the daemon killed each `restart_s` seconds. (what the crew said, the daemon's deaths by our hand,
    its deaths by itself)."""
    crew = node.run("--crew", str(kills), str(at_a_time), str(seconds), str(seed), program="in_storm.py")
    if started is not None:
        started(crew)
    by_us, by_itself, said = 0, 0, []
    reader = threading.Thread(target=lambda: said.append(crew.stdout.read()))
    reader.start()
    while reader.is_alive():
        reader.join(restart_s)
        alive = node.kill()
        by_us, by_itself = by_us + alive, by_itself + (not alive)
        node.start()
    crew.communicate()
    lines = [line for line in said[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}, by_us, by_itself


def fills(node, tenant, memory):
    """How much a lone process of the tenant takes."""
    out = node.run("--fill", tenant=tenant, memory=memory, program="in_storm.py").communicate(timeout=WATCHDOG_S)[0]
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}

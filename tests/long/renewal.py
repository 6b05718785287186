"""Grants of a minute, renewed for an hour, and no call refused.

    renewal.py BUILD [--seconds 3600] [--life 60] [--out FILE]

A daemon on the simulated driver, its tenant under enforce, a program under `bulkhead run --grant FILE` that copies 4 KiB to the device and
back each 20 ms. The issuer replaces FILE at two thirds of each grant's life, as docs/compliance/grants.md says. At a third of the time the
issuer's key is rotated: the new one is joined to the trust file and signs from then on; at two thirds the old one is taken out. At the end:
the calls and the refused ones as the program saw them, the log's own answer (`audit verify`, and one entry a call), and, so that the count is
known to count, a revocation after which the next calls must be refused. FILE gets a line of JSON each minute, the last one is the result."""
import argparse
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "gpu"))
SUBJECT = "spiffe://firm.example/trade"
NOT_PERMITTED = 800


def tenant():
    """Copies until its input ends; a line of input, and its end, are answered by {calls, refused, other}."""
    import ctypes
    from cuda_driver import Driver
    driver, size = Driver(), 4096
    driver.primary()
    there, host = driver.alloc(size), ctypes.create_string_buffer(size)
    said = {"calls": 0, "refused": 0, "other": 0}
    print("ready", flush=True)
    while True:
        for name, args in (("cuMemcpyHtoD_v2", (there, host)), ("cuMemcpyDtoH_v2", (host, there))):
            code = driver.ask(name, *args, ctypes.c_size_t(size))
            said["calls"] += 1
            said["refused"] += code == NOT_PERMITTED
            said["other"] += code not in (0, NOT_PERMITTED)
        if select.select([sys.stdin], [], [], 0.02)[0]:
            more = sys.stdin.readline()
            print(json.dumps(said), flush=True)
            if not more:
                return


class Trial:
    def __init__(self, build, options):
        from node import Node
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="bulkhead-renewal-"))
        self.bulkhead, self.options = str(build / "bin" / "bulkhead"), options
        env = {k: v for k, v in os.environ.items() if not k.startswith(("BULKHEAD_", "LD_", "XDG_"))}
        self.env = {**env, "BULKHEAD_DIR": str(self.home / "d"), "BULKHEAD_SIM": "h200", "HOME": str(self.home)}
        self.node = Node(self.bulkhead, self.env, sight=False)
        self.keys = [self.home / "one.pem", self.home / "two.pem"]
        self.jwks, self.token = self.home / "jwks.json", self.home / "trade.jwt"
        self.given, self.key = 0, self.keys[0]

    def good(self, *words):
        r = self.node.call(*words)
        if r.returncode != 0:
            raise RuntimeError(f"{words}: {r.stderr}")
        return r.stdout

    def prepare(self):
        for key in self.keys:
            self.good("grant", "keygen", "--key", str(key), "--jwks", str(key) + ".jwks")
        shutil.copy(str(self.keys[0]) + ".jwks", self.jwks)
        self.node.config.write_text(f'[audit]\n[trust]\njwks = "{self.jwks}"\naudience = "node1"\n[[tenant]]\nname = "trade"\n'
                                    f'memory = "1GiB"\naudit = "enforce"\ngrant_subject = "{SUBJECT}"\n')
        self.gpu = self.node.status()["gpus"][0]["uuid"]
        self.node.start()
        self.issue()

    def issue(self):
        self.good("grant", "issue", "--key", str(self.key), "--subject", SUBJECT, "--audience", "node1", "--gpu", self.gpu,
                  "--actions", "h2d,d2h", "--class", "mnpi", "--for", f"{self.options.life}s", "--out", str(self.token))
        self.given += 1

    def rotate(self, key_sets):
        self.good("grant", "jwks", *key_sets, "--out", str(self.jwks))
        before = len(self.events("trust-loaded"))
        self.node.process.send_signal(signal.SIGHUP)
        from node import until
        until(lambda: len(self.events("trust-loaded")) > before, "the trust file")

    def events(self, kind):
        return [e for e in map(json.loads, self.good("events", "--json").splitlines()) if e["kind"] == kind]

    def ask(self):
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        return json.loads(self.program.stdout.readline())

    def say(self, **more):
        line = json.dumps({"seconds": round(time.monotonic() - self.began), **self.ask(), "given": self.given, **more})
        print(line, flush=True)
        if self.options.out:
            with open(self.options.out, "a") as out:
                out.write(line + "\n")

    def run(self):
        self.prepare()
        argv = [self.bulkhead, "run", "-q", "--tenant", "trade", "--grant", str(self.token), "--", sys.executable, __file__, "--tenant"]
        self.program = subprocess.Popen(argv, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.program.stdout.readline() != "ready\n":
            raise RuntimeError("the program did not start")
        self.began, steps = time.monotonic(), self.options.life * 2 / 3
        last, said_at, rotated = self.began, self.began, 0
        while (now := time.monotonic()) - self.began < self.options.seconds:
            part = (now - self.began) / self.options.seconds
            if rotated == 0 and part > 1 / 3:
                self.rotate([str(self.jwks), str(self.keys[1])])
                self.key, rotated = self.keys[1], 1
            elif rotated == 1 and part > 2 / 3 and now - last > 1:  # the last of the old key has long ended
                self.rotate([str(self.keys[1])])
                rotated = 2
            if now - last >= steps:
                self.issue()
                last = now
            if now - said_at >= 60:
                self.say()
                said_at = now
            time.sleep(0.2)  # its pace; nothing waits for it
        return self.finish(rotated)

    def entries(self, log):
        """The log's transfers by what was decided."""
        kinds = {}
        with subprocess.Popen([self.bulkhead, "audit", "export", str(log)], env=self.env, stdout=subprocess.PIPE, text=True) as export:
            for line in export.stdout:
                entry = json.loads(line)
                if entry.get("kind") == "transfer":
                    kinds[entry["decision"]] = kinds.get(entry["decision"], 0) + 1
        return kinds

    def finish(self, rotated):
        from node import until
        said = self.ask()
        expired, expiring = len(self.events("grant-expired")), len(self.events("grant-expiring"))
        self.good("grant", "revoke", "--tenant", "trade")
        until(lambda: self.ask()["refused"] > said["refused"], "a refusal: the count counts")
        self.program.stdin.close()
        last = json.loads(self.program.stdout.readline())  # also what was called meanwhile
        self.program.wait(60)
        until(lambda: self.node.status("trade") is None or not self.node.status("trade").get("processes"), "the tenant's end")
        self.node.stop()
        log = self.home / "d" / "state" / "audit"
        verified = self.node.call("audit", "verify", str(log), "--key", str(log / "host.pub"))
        kinds = self.entries(log)
        ok = (said["refused"], said["other"], verified.returncode, rotated) == (0, 0, 0, 2) and sum(kinds.values()) == last["calls"]
        line = json.dumps({"ok": ok, "seconds": round(time.monotonic() - self.began), "life_s": self.options.life, "calls": said["calls"],
                           "refused": said["refused"], "other": said["other"], "grants": self.given, "expired": expired,
                           "expiring": expiring, "keys_rotated": rotated == 2, "refused_after_revocation": last["refused"],
                           "all_calls": last["calls"], "entries": kinds, "verify": verified.stdout.splitlines()[:1],
                           "verify_exit": verified.returncode})
        print(line, flush=True)
        if self.options.out:
            with open(self.options.out, "a") as out:
                out.write(line + "\n")
        return ok

    def close(self):
        if self.node.process and self.node.process.poll() is None:
            self.node.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def main():
    if sys.argv[1:] == ["--tenant"]:
        tenant()
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--life", type=int, default=60)
    parser.add_argument("--out")
    trial = None
    options = parser.parse_args()
    try:
        trial = Trial(options.build.resolve(), options)
        return 0 if trial.run() else 1
    finally:
        if trial:
            trial.close()


if __name__ == "__main__":
    sys.exit(main())

"""Tokens as an attacker or a broken issuer makes them, signed by OpenSSL's command with the issuer's real key where it takes one: each is
refused by its name, which stands in the answer and in the journal; and what a good grant does not cover is refused and in the log.

    bad_tokens.py BUILD          the tests
    bad_tokens.py --client       a tenant's program: one line of input, `h2d DEVICE` or `d2h DEVICE`, one line with the driver's code"""
import base64
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))

NONE, DIRECTION, DEVICE = 0, 5, 6  # docs/formats/entry.md
SUBJECT = "spiffe://firm.example/trade"


def client():
    from cuda_driver import Driver
    drivers, size, host = {}, 4096, ctypes.create_string_buffer(4096)
    print("ready", flush=True)
    for line in sys.stdin:
        which, device = line.split()
        if device not in drivers:
            driver = Driver(int(device))
            drivers[device] = driver, driver.primary(), driver.alloc(size)
        driver, context, there = drivers[device]
        driver.call("cuCtxSetCurrent", context)
        args = ("cuMemcpyHtoD_v2", there, host) if which == "h2d" else ("cuMemcpyDtoH_v2", host, there)
        print(driver.ask(*args, ctypes.c_size_t(size)), flush=True)


if sys.argv[1:] == ["--client"]:
    client()
    sys.exit(0)

from cli_case import BULKHEAD, Case, main  # noqa: E402
from node import Node, until  # noqa: E402


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else data.encode()).rstrip(b"=").decode()


def raw(der):
    """r and s, 32 bytes each, of the DER form that OpenSSL writes."""
    def integer(at):
        size = der[at + 1]
        return at + 2 + size, der[at + 2:at + 2 + size].lstrip(b"\0").rjust(32, b"\0")
    at, r = integer(2)
    return r + integer(at)[1]


@unittest.skipUnless(shutil.which("openssl"), "no openssl command")
class BadTokens(Case):
    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM"] = "h200x2"
        self.node = Node(BULKHEAD, self.env, sight=False)
        at = pathlib.Path(self.home.name)
        self.key, self.jwks, self.token = at / "issuer.pem", at / "jwks.json", at / "trade.jwt"
        self.assertEqual(self.call("grant", "keygen", "--key", str(self.key), "--jwks", str(self.jwks)).returncode, 0)
        self.kid = json.loads(self.jwks.read_text())["keys"][0]["kid"]
        self.node.config.write_text(f'[audit]\n[trust]\njwks = "{self.jwks}"\naudience = "node1"\n[[tenant]]\nname = "trade"\n'
                                    f'memory = "4GiB"\naudit = "enforce"\ngrant_subject = "{SUBJECT}"\n')
        self.gpus = [g["uuid"] for g in self.status()["gpus"]]
        self.node.start()
        self.addCleanup(self.stop)

    def stop(self):
        if self.node.process.poll() is None:
            self.node.stop()

    def claims(self, **changed):
        now = int(time.time())
        detail = {"type": "gpu-dma", "actions": ["h2d"], "locations": [self.gpus[0]], "datatypes": ["mnpi"]}
        whole = {"iss": "firm", "sub": SUBJECT, "aud": "node1", "iat": now, "nbf": now, "exp": now + 600, "jti": "A" * 22,
                 "authorization_details": [detail]}
        return {**whole, **changed}

    def sign(self, text):
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(self.key)], input=text.encode(), stdout=subprocess.PIPE,
                              check=True)
        return raw(done.stdout)

    def give(self, claims=None, header=None, signature=None):
        """Claims and header as values or as text; what the daemon says."""
        header = header or {"alg": "ES256", "typ": "gpu-dma-grant+jwt", "kid": self.kid}
        parts = [b64(p if isinstance(p, str) else json.dumps(p)) for p in (header, claims or self.claims())]
        text = ".".join(parts)
        self.token.write_text(text + "." + b64(signature or self.sign(text)) + "\n")
        return self.call("grant", "renew", "trade", str(self.token))

    def test_each_is_refused_by_its_name_and_the_journal_says_so(self):
        now, good = int(time.time()), {"alg": "ES256", "typ": "gpu-dma-grant+jwt", "kid": self.kid}
        twice = json.dumps(self.claims())[:-1] + ', "sub": "spiffe://firm.example/other"}'
        cases = [
            ("expired", dict(claims=self.claims(iat=now - 700, nbf=now - 700, exp=now - 100))),
            ("not-yet-valid", dict(claims=self.claims(iat=now + 300, nbf=now + 300, exp=now + 600))),
            ("audience", dict(claims=self.claims(aud="node2"))),
            ("algorithm", dict(header={**good, "alg": "RS256"})),
            ("algorithm", dict(header={**good, "alg": "none"})),
            ("duplicate-key", dict(claims=twice)),
            ("duplicate-key", dict(header=json.dumps(good)[:-1] + ', "alg": "none"}')),
            ("header", dict(header={**good, "jwk": {}})),
            ("lifetime", dict(claims=self.claims(exp=now + 86400))),
            ("signature", dict(signature=b"\1" * 64)),
            ("signature", dict(signature=b"\0" * 64)),
            ("signature-length", dict(signature=b"\1" * 71)),
            ("location", dict(claims=self.claims(authorization_details=[
                {"type": "gpu-dma", "actions": ["h2d"], "locations": ["GPU-00000000-0000-0000-0000-0000000000ff"], "datatypes": ["a"]}]))),
        ]
        for name, what in cases:
            answer = self.give(**what)
            self.assertEqual(answer.returncode, 1, name)
            self.assertIn("grant refused: " + name, self.one_line(answer.stderr))
        self.token.write_text("A" * 9000)
        answer = self.call("grant", "renew", "trade", str(self.token))  # over 8,192 bytes: the command does not even send it
        self.assertEqual(answer.returncode, 1)
        self.one_line(answer.stderr)
        told = [e["text"] for e in map(json.loads, self.call("events", "--json").stdout.splitlines()) if e["kind"] == "grant-refused"]
        for name, text in zip(("expired", "not-yet-valid", "audience", "algorithm"), told):  # the rest may only be counted
            self.assertIn(name, text)
        self.assertGreaterEqual(len(told), 4)
        self.assertEqual(self.give().returncode, 0)  # the same without a fault is good

    def test_what_a_grant_does_not_cover_is_refused_and_in_the_log(self):
        self.assertEqual(self.give().returncode, 0)
        argv = [BULKHEAD, "run", "-q", "--tenant", "trade", "--", sys.executable, os.path.abspath(__file__), "--client"]
        p = subprocess.Popen(argv, env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), "ready\n")
        self.assertEqual([self.tell(p, f"{what} {device}") for device in (0, 1) for what in ("h2d", "d2h")],
                         [["0"], ["800"], ["800"], ["800"]])
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        until(lambda: not (self.node.status("trade") or {}).get("processes"), "the tenant's end")
        self.assertEqual(self.node.stop(), 0)
        log = self.dir / "state" / "audit"
        verified = self.call("audit", "verify", str(log), "--key", str(log / "host.pub"))
        self.assertEqual(verified.returncode, 0, verified.stdout)
        said = [e for e in map(json.loads, self.call("audit", "export", str(log)).stdout.splitlines()) if e.get("kind") == "transfer"]
        self.assertEqual([(e["decision"], e["reason"]) for e in said],
                         [("allowed", NONE), ("denied", DIRECTION), ("denied", DEVICE), ("denied", DIRECTION)])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The command line over logs made by make_log, and its agreement with the second verifier and, if Go is there, the third.

Usage: audit_cli.py BULKHEAD MAKE_LOG SOURCE_DIR
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BULKHEAD, MAKE_LOG, SOURCE = sys.argv[1:4]
GO_MODULE = "/usr/share/gocode/src/golang.org/x/mod"


def run(*words, check=None):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=120)
    if check is not None and done.returncode != check:
        raise AssertionError(f"{words} ended with {done.returncode}, not {check}:\n{done.stdout}{done.stderr}")
    return done


class Log:
    def __init__(self, *extra, epochs=3, entries=300):
        self.place = tempfile.TemporaryDirectory()
        self.dir = pathlib.Path(self.place.name) / "audit"
        run(MAKE_LOG, self.dir, epochs, entries, *extra, check=0)
        self.key = self.dir / "host.pub"

    def __del__(self):
        self.place.cleanup()

    def audit(self, command, *words, check=0):
        return run(BULKHEAD, "audit", command, *words, check=check)


class Cli(unittest.TestCase):
    def test_verify_says_intact_or_names_what_is_wrong(self):
        log = Log()
        out = log.audit("verify", log.dir, "--key", log.key).stdout
        self.assertIn("intact: indices 0 to 907, 900 transfers and marks, 7 records, 4 epochs", out)
        said = json.loads(log.audit("verify", log.dir, "--key", log.key, "--json").stdout)
        self.assertEqual((said["verdict"], said["size"], said["signed_size"]), ("intact", 907, 907))
        bad = Log("damage", epochs=2, entries=40)
        done = bad.audit("verify", bad.dir, "--key", bad.key, check=1)
        self.assertIn("root: index ", done.stdout)
        self.assertIn("NOT INTACT", done.stdout)
        for words in (["/nowhere", "--key", log.key], [log.dir, "--key", "/nowhere"], [log.dir]):
            log.audit("verify", *words, check=2)

    def test_trusted_checkpoint_finds_a_roll_back(self):
        log = Log(epochs=1, entries=20)
        kept = pathlib.Path(log.place.name) / "kept"
        shutil.copy(log.dir / "checkpoints", kept)
        text = kept.read_text()
        kept.write_text(text[text.rindex("test/bulkhead\n"):])
        log.audit("verify", log.dir, "--key", log.key, "--trusted", kept)
        other = Log(epochs=1, entries=20)
        log.audit("verify", other.dir, "--key", other.key, "--trusted", kept, check=2)

    def test_proof_stands_alone(self):
        log = Log()
        proof = pathlib.Path(log.place.name) / "proof.json"
        log.audit("prove", 500, "--dir", log.dir, "--out", proof)
        key = pathlib.Path(log.place.name) / "host.pub"
        shutil.copy(log.key, key)
        shutil.rmtree(log.dir)
        shown = json.loads(log.audit("prove", "--check", proof, "--key", key).stdout)
        self.assertEqual((shown["index"], shown["kind"], shown["bytes"]), (500, "transfer", 4096))
        content = json.loads(proof.read_text())
        content["index"] = 501
        proof.write_text(json.dumps(content))
        log.audit("prove", "--check", proof, "--key", key, check=1)

    def test_show_tail_export_stats(self):
        log = Log()
        one = json.loads(log.audit("show", 100, "--dir", log.dir).stdout)
        self.assertNotIn("source", one)
        self.assertIn("source", json.loads(log.audit("show", 100, "--dir", log.dir, "--addresses").stdout))
        log.audit("show", 100000, "--dir", log.dir, check=1)
        tail = log.audit("tail", log.dir, "-n", 5).stdout.splitlines()
        self.assertEqual([json.loads(t)["index"] for t in tail], list(range(902, 907)))
        lines = log.audit("export", log.dir, "--from", 3, "--to", 10).stdout.splitlines()
        self.assertEqual(len(lines), 7)
        self.assertEqual(json.loads(log.audit("stats", log.dir, "--json").stdout)["signed_size"], 907)

    def test_init_makes_keys_once(self):
        with tempfile.TemporaryDirectory() as place:
            made = run(BULKHEAD, "audit", "init", place + "/a", "--origin", "firm/log", check=0)
            self.assertTrue(made.stdout.startswith("log firm/log+"))
            self.assertEqual(os.stat(place + "/a/host.key").st_mode & 0o777, 0o600)
            run(BULKHEAD, "audit", "init", place + "/a", check=1)
            run(BULKHEAD, "audit", "init", place + "/b", "--origin", "a b", check=2)

    def test_second_verifier_agrees(self):
        try:
            import cryptography  # noqa: F401
        except ImportError:
            self.skipTest("python3-cryptography is not installed: the second verifier did not run")
        tool = pathlib.Path(SOURCE) / "tools" / "verify_log.py"
        log = Log()
        self.assertIn("intact: 907 entries", run(sys.executable, tool, log.dir, "--key", log.key, check=0).stdout)
        bad = Log("damage", epochs=2, entries=40)
        self.assertIn("not intact", run(sys.executable, tool, bad.dir, "--key", bad.key, check=1).stdout)
        text = (log.dir / "checkpoints").read_bytes()
        cut = text[:text.rindex(b"test/bulkhead\n")]
        # Cut inside its last line, and between two lines of signatures: half a note is no finding for either.
        for torn in (cut[:-20], cut[:cut[:-1].rindex(b"\n") + 1]):
            (log.dir / "checkpoints").write_bytes(torn)
            both = (run(sys.executable, tool, log.dir, "--key", log.key).returncode,
                    run(BULKHEAD, "audit", "verify", log.dir, "--key", log.key).returncode)
            self.assertEqual(both, (0, 0))

    def test_go_reads_tiles_and_checkpoint(self):
        if not shutil.which("go") or not pathlib.Path(GO_MODULE).is_dir():
            self.skipTest("Go or golang-golang-x-mod-dev is not installed: the third verifier did not run")
        log = Log()
        tiles = pathlib.Path(log.place.name) / "tiles"
        log.audit("export", log.dir, "--tiles", tiles)
        vkey = log.key.read_text().split()[1]
        env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
               "GOCACHE": log.place.name + "/cache"}
        source = pathlib.Path(SOURCE) / "tests" / "audit" / "verify_tiles.go"

        def go():
            return subprocess.run(["go", "run", str(source), vkey, str(tiles)], env=env, capture_output=True,
                                  text=True, timeout=600)

        done = go()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("intact: 907 entries", done.stdout)
        bundle = tiles / "tile" / "entries" / "001"
        data = bytearray(bundle.read_bytes())
        data[1000] ^= 1
        bundle.write_bytes(data)
        self.assertEqual(go().returncode, 1)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])

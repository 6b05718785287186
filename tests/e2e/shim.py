"""The signed shim: what was signed is preloaded from a verified copy; a changed byte starts nothing. Real daemon, real openssl(1)."""
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import unittest

from cli_case import BUILD, BULKHEAD, Case, main

BULKHEADD = BUILD / "bin" / "bulkheadd"
LIBRARY = BUILD / "lib" / "libbulkhead.so"


@unittest.skipUnless(BULKHEADD.exists() and shutil.which("openssl"), "bulkheadd or openssl(1) is missing")
class Shim(Case):
    def setUp(self):
        super().setUp()
        os.chmod(self.home.name, 0o755)
        self.dir.mkdir(mode=0o755)
        self.at = pathlib.Path(self.home.name)
        self.lib = self.at / "lib"
        self.lib.mkdir()
        shutil.copy(LIBRARY, self.lib / "libbulkhead.so")
        self.root, self.leaf = self.certificate("root", ""), self.certificate("leaf", "extendedKeyUsage=codeSigning", "root")
        self.manifest = self.lib / "shim.json"
        self.config = self.at / "d.toml"
        self.sign()

    def openssl(self, *words):
        return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, text=True, timeout=60)

    def certificate(self, name, extension, issuer=None):
        key, request, pem, more = (self.at / f"{name}.{x}" for x in ("key", "csr", "pem", "ext"))
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        self.openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        more.write_text(extension + "\n" if extension else "basicConstraints=critical,CA:TRUE\n")
        by = ["-CA", self.at / f"{issuer}.pem", "-CAkey", self.at / f"{issuer}.key", "-set_serial", "2"] if issuer else ["-signkey", key]
        self.openssl("x509", "-req", "-in", request, *by, "-days", "2", "-extfile", more, "-out", pem)
        return pem

    def sign(self, *more):
        r = self.call("shim", "sign", "--key", str(self.at / "leaf.key"), "--cert", str(self.leaf), "--library",
                      str(self.lib / "libbulkhead.so"), "--daemon", str(BULKHEADD), "--out", str(self.manifest), *more)
        self.assertEqual((r.returncode, r.stderr), (0, ""))

    def listens(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            return s.connect_ex(str(self.dir / "control.sock")) == 0

    def daemon(self):
        self.config.write_text(f'[trust]\nshim_root = "{self.root}"\nshim = "{self.manifest}"\n')
        p = subprocess.Popen([BULKHEADD, "--sim", "h200", "--no-sight", "--config", str(self.config)], env=self.env, text=True,
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.until(lambda: self.listens() or p.poll() is not None, "the socket, or its end")
        return p

    def refuses(self):
        p = self.daemon()
        p.wait(timeout=60)
        self.assertEqual(p.returncode, 78)
        return p.stderr.read()

    def change(self, path):
        path.chmod(0o755)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    def test_what_was_signed_is_preloaded(self):
        self.assertIsNone(self.daemon().poll())
        copy = pathlib.Path((self.dir / "shim").read_text().strip())
        self.assertEqual(copy.stat().st_mode & 0o777, 0o555)
        self.assertEqual(copy.read_bytes(), LIBRARY.read_bytes())
        # a child that closes what it does not know, and its child
        code = "import os, subprocess, sys; os.closerange(3, 1024); print(open('/proc/self/maps').read()); sys.stdout.flush(); " \
               "subprocess.run(['cat', '/proc/self/maps'], close_fds=True)"
        r = self.call("run", "-q", "--memory", "1GiB", "--", sys.executable, "-c", code)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout.count(f"r-xp") > 0 and r.stdout.count(str(copy)) >= 2, True, r.stderr)
        inode = str(copy.stat().st_ino)
        self.assertTrue(any(line.split()[4] == inode for line in r.stdout.splitlines() if str(copy) in line))
        # the program's own /proc/PID/maps names no other of ours
        self.assertNotIn(str(LIBRARY.resolve()), r.stdout)

    def test_a_changed_byte_starts_nothing(self):
        self.change(self.lib / "libbulkhead.so")
        self.assertIn("is not the library that was signed", self.refuses())
        shutil.copy(LIBRARY, self.lib / "libbulkhead.so")
        text = self.manifest.read_text()
        self.manifest.write_text(text.replace('"0.1.0"', '"0.1.1"', 1))
        self.assertIn("the signature does not hold", self.refuses())
        self.manifest.write_text(text)
        self.manifest.with_name("shim.json.p7s").unlink()
        self.assertIn("No such file", self.refuses())

    def test_a_copy_that_was_changed_is_not_preloaded(self):
        p = self.daemon()
        self.assertIsNone(p.poll())
        mark = self.at / "ran"
        copy = pathlib.Path((self.dir / "shim").read_text().strip())
        self.change(copy)
        r = self.call("run", "-q", "--memory", "1GiB", "--", "touch", str(mark))
        self.assertEqual(r.returncode, 125)
        self.assertIn("was changed after it was verified", self.one_line(r.stderr))
        self.assertFalse(mark.exists())
        p.kill()
        p.wait()
        self.assertIsNone(self.daemon().poll())  # copies it anew
        self.assertEqual(self.call("run", "-q", "--memory", "1GiB", "--", "touch", str(mark)).returncode, 0)

    def test_another_root_is_not_ours(self):
        self.root = self.certificate("other", "")
        self.assertIn("the signature does not hold", self.refuses())

    def test_verify_and_openssl_agree(self):
        def ours():
            return self.call("shim", "verify", str(self.manifest), "--root", str(self.root), "--library", str(self.lib / "libbulkhead.so"))

        def theirs():
            return subprocess.run(["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", f"{self.manifest}.p7s", "-content",
                                   str(self.manifest), "-CAfile", str(self.root), "-purpose", "any", "-out", os.devnull],
                                  capture_output=True, timeout=60).returncode
        r = ours()
        self.assertEqual((r.returncode, theirs()), (0, 0), r.stderr)
        self.assertIn("is what was signed", r.stdout)
        # and what openssl signed we take
        self.openssl("cms", "-sign", "-binary", "-in", self.manifest, "-signer", self.leaf, "-inkey", self.at / "leaf.key", "-outform", "DER",
                     "-out", f"{self.manifest}.p7s")
        self.assertEqual(ours().returncode, 0)
        self.manifest.write_text(self.manifest.read_text() + " ")
        self.assertNotEqual(theirs(), 0)
        self.assertEqual(ours().returncode, 1)


if __name__ == "__main__":
    sys.exit(main())

"""A real rsyslog receives over TCP, TLS and RELP, plain and in TLS: what it adds up is what the log holds, and each event is one of OCSF."""
import json
import re
import subprocess
import unittest

from cli_case import main
from siem_case import SCHEMA, SiemCase, add_up, until


def certificates(where):
    """An authority, a receiver's certificate for 127.0.0.1 and siem.test, and an exporter's; another authority."""
    def run(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=where)
    for ca in ("ca", "other"):
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{ca}.key", "-out", f"{ca}.pem",
            "-subj", f"/CN={ca}", "-days", "2")
    for name, names in (("receiver", "IP:127.0.0.1,DNS:siem.test"), ("exporter", "DNS:exporter")):
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}")
        (where / "ext").write_text(f"subjectAltName={names}\n")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2",
            "-extfile", "ext")
    return {"ca": where / "ca.pem", "cert": where / "receiver.pem", "key": where / "receiver.key"}


class Receiver(SiemCase):
    def check_events(self, receiver):
        """RFC 5424 as rsyslog parsed it, OCSF as its schema says."""
        import jsonschema
        check = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
        classes = set()
        for pri, version, host, app, msgid, data, message in receiver.lines():
            event = json.loads(message)
            self.assertEqual((version, host, app), ("1", "node", "bulkheadd"))
            self.assertEqual(int(pri) >> 3, 13)
            self.assertEqual(int(pri) & 7, {"DENY": 4, "FAIL": 4, "REVOKE": 4, "GAP": 2, "FINDING": 2}.get(msgid, 6))
            self.assertEqual(re.fullmatch(r'\[bulkhead@32473 uid="(.*)"\]', data)[1], event["metadata"]["uid"])
            problems = [f"{list(e.path)}: {e.message}" for e in check.iter_errors(event)]
            self.assertEqual(problems, [], message)
            self.assertEqual(event["type_uid"], event["class_uid"] * 100 + event["activity_id"])
            classes.add(event["class_uid"])
        self.assertGreaterEqual(classes, {1004, 1007, 2004, 6002})

    def test_tcp(self):
        wanted = self.fill(1, 3, 200)
        r = self.receiver("tcp")
        self.export(r.url)
        self.arrives(r, wanted)
        self.check_events(r)

    def test_relp(self):
        wanted = self.fill(2, 3, 200)
        r = self.receiver("relp")
        self.export(r.url)
        self.arrives(r, wanted)
        self.check_events(r)
        until(lambda: self.page()["kept"] == self.page()["signed"], "everything is confirmed")

    def test_tls(self):
        files = certificates(self.where)
        wanted = self.fill(3, 3, 200)
        r = self.receiver("tls", certificates=files, ask_client=True)
        mine = [f"cert={self.where}/exporter.pem", f"key={self.where}/exporter.key"]
        # Another authority, another name: nothing leaves.
        for wrong in ([f"ca={self.where}/other.pem"], [f"ca={files['ca']}", "name=elsewhere.test"]):
            p = self.export(r.url, *wrong, *mine)
            until(lambda: self.page() and "certificate" in self.page()["text"], "it says why")
            self.assertEqual(self.page()["sent"], 0)
            p.kill()
            p.wait()
            (self.state / "page").unlink()
        self.assertEqual(r.events(), [])
        self.export(r.url, f"ca={files['ca']}", *mine)
        self.arrives(r, wanted)
        self.check_events(r)

    def test_relp_tls(self):
        files = certificates(self.where)
        wanted = self.fill(4, 3, 200)
        r = self.receiver("relp+tls", certificates=files, ask_client=True)
        self.export(r.url, f"ca={files['ca']}", "name=siem.test", f"cert={self.where}/exporter.pem", f"key={self.where}/exporter.key")
        self.arrives(r, wanted)
        self.check_events(r)


class Schema(unittest.TestCase):
    def test_it_can_fail(self):
        import jsonschema
        check = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
        good = {"activity_id": 7, "category_uid": 1, "class_uid": 1004, "type_uid": 100407, "severity_id": 1, "time": 1,
                "metadata": {"version": "1.8.0", "product": {"name": "x"}}, "actor": {"process": {"pid": 1}},
                "device": {"type_id": 1, "hostname": "h"}, "process": {"pid": 1}}
        self.assertEqual(list(check.iter_errors(good)), [])
        for key in good:
            self.assertTrue(list(check.iter_errors({k: v for k, v in good.items() if k != key})), key)
        for key, value in (("class_uid", 1003), ("activity_id", 3), ("process", {}), ("actor", {}), ("metadata", {"version": "1.7.0"})):
            self.assertTrue(list(check.iter_errors({**good, key: value})), key)


if __name__ == "__main__":
    main()

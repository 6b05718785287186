"""What needs root and namespaces of its own: containers with equal pids, and the operator's node page."""
import os
import struct
import subprocess
import unittest

from cli_case import BUILD, BULKHEAD, GIB, Case, main

NAMESPACES = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "-p", "--fork", "--mount-proc", "/bin/true"],
                                                  capture_output=True).returncode == 0


@unittest.skipUnless(NAMESPACES, "needs root and namespaces")
class Containers(Case):
    """Two pid namespaces share one directory; the first process of each has pid 1."""

    def container(self):
        """A driver-API program as pid 1, in the tenant by variables and preload."""
        env = {**self.env, "BULKHEAD_TENANT": "a", "LD_PRELOAD": str(BUILD / "lib" / "libbulkhead.so"),
               "LD_LIBRARY_PATH": str(BUILD / "sim")}
        words = ["env", *(f"{k}={env[k]}" for k in ("LD_PRELOAD", "LD_LIBRARY_PATH")), BULKHEAD, "__demo-worker"]
        outside = {k: v for k, v in env.items() if not k.startswith("LD_")}
        p = subprocess.Popen(["unshare", "-p", "--fork", "--kill-child", "--mount-proc", *words], env=outside, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline().split()[:2], ["ready", "1"])
        return p

    def fill(self, worker):
        """Bytes that could still be had."""
        return int(self.tell(worker, "fill")[1])

    def test_equal_pids_share_one_quota_and_only_the_dead_give_back(self):
        self.assertEqual(self.run_it("--tenant", "a", "--memory", "8GiB", "--", "/bin/true").returncode, 0)
        first, second = self.container(), self.container()
        taken = self.fill(first)
        self.assertGreater(taken, 6 * GIB)  # 8 GiB less two contexts
        self.assertEqual(self.fill(second), 0)
        tenant, = self.status()["tenants"]
        self.assertLessEqual(tenant["devices"][0]["used_bytes"], 8 * GIB)
        self.assertEqual([p["pid"] for p in tenant["processes"]], [1, 1])
        self.assertFalse(any(p["our_namespace"] or p["dead"] for p in tenant["processes"]))
        first.kill()  # its pid 1 dies with it; its pid is still in use next door
        first.wait()
        self.until(lambda: self.fill(second) >= taken, "the dead container's memory came back")


@unittest.skipUnless(NAMESPACES, "needs root and namespaces")
class NodePage(Case):
    """/run is a file system of the test's own; the page is written from docs/formats/node.md."""

    def page(self, tenant, uuid, limit):
        entry = bytearray(768)
        struct.pack_into("<QI", entry, 0, 2, 1)
        entry[64:64 + len(tenant)] = tenant.encode()
        entry[128:152] = bytes.fromhex(uuid.replace("-", "")) + struct.pack("<Q", limit)
        head = struct.pack("<8sHHIQII", b"BHNODE1\0", 1, 0, 8192, 827392, 0, 1)
        path = self.dir.parent / "node"
        path.write_bytes((head.ljust(8192, b"\0") + entry).ljust(827392, b"\0"))
        return path

    def ruled(self, page, command):
        script = (f"mount -t tmpfs -o mode=755 none /run && mkdir -m 755 /run/bulkhead && "
                  f"install -m 444 {page} /run/bulkhead/node && {command}")
        env = {k: v for k, v in self.env.items() if k != "BULKHEAD_DIR"}
        return subprocess.run(["unshare", "-m", "/bin/sh", "-c", script], env=env, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL)

    def test_it_binds_below_what_is_asked(self):
        uuid = self.status()["gpus"][0]["uuid"].removeprefix("GPU-")
        run = f"{BULKHEAD} run -q --no-daemon --tenant a --memory 8GiB -- {BULKHEAD} __demo-worker </dev/null"
        show = f"{BULKHEAD} status --json | grep limit_bytes"
        r = self.ruled(self.page("a", uuid, 3 * GIB), f"{run} && {show}")
        self.assertIn(f'"limit_bytes": {3 * GIB}', r.stdout, r.stderr)
        r = self.ruled(self.page("a", uuid, 30 * GIB), f"{run} && {show}")
        self.assertIn(f'"limit_bytes": {8 * GIB}', r.stdout, r.stderr)
        r = self.ruled(self.page("b", uuid, 3 * GIB), run)
        self.assertEqual(r.returncode, 125)
        self.assertIn("grants tenant a no GPU", self.one_line(r.stderr))


if __name__ == "__main__":
    main()

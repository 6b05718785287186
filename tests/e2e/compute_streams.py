"""`run --streams high=25%`: streams of a high priority on multiprocessors of their own, on the timed simulator, and each refusal."""
import json
import subprocess
import unittest

from cli_case import BUILD, Case, main

CLIENT = str(BUILD / "tests" / "compute_client")


class Streams(Case):
    def setUp(self):
        super().setUp()
        self.env["BULKHEAD_SIM_TIMED"] = "1"

    def seen(self, green="works", **more):
        """As if `doctor --self-test` had seen it."""
        status = self.status()
        gpu = {"uuid": status["gpus"][0]["uuid"], "driver": status["driver"], "tested": "2026-11-22T14:00:00Z", "green_sms": 132, "green_unit": 8,
               "green": {"verdict": green, "evidence": "as a test says"}, **more}
        (self.dir / "sim").mkdir(parents=True, exist_ok=True)
        (self.dir / "sim" / "selftest.json").write_text(json.dumps({"schema": 1, "gpus": [gpu]}))

    def parts(self, *words, code=0, env=None):
        """What the client said of each kind of stream, in order, and the tenant's counts."""
        p = self.start("--tenant", "a", "--memory", "4GiB", *words, "--", CLIENT, "parts", stderr=subprocess.PIPE, env=env)
        out, err = p.communicate("go\n", timeout=60)
        self.assertEqual(p.returncode, code, err)
        tenant = next((t for t in self.status()["tenants"] if t["name"] == "a"), None)
        return [(w[0], int(w[1])) for w in (line.split() for line in out.splitlines()) if w[0] not in ("ready", "done")], \
            tenant and tenant["devices"][0]["streams"]

    def refused(self, text, *words, code=125):
        r = self.run_it("--memory", "1GiB", *words, "--", "/bin/true")
        self.assertEqual((r.returncode, len(r.stderr.splitlines())), (code, 1), r.stderr)
        self.assertIn(text, r.stderr)

    def test_streams_have_the_parts_that_were_asked_for_and_each_is_counted(self):
        self.seen()
        round_ = [("high", 32), ("rest", 100), ("blocking", 132), ("default", 132)]
        said, counts = self.parts("--streams", "high=25%")
        self.assertEqual(said, round_ + round_ + [("own_context", 132)], "again after a reset, and not in a context of the program's own")
        self.assertEqual(counts, {"placed": 4, "left": 3})

    def test_under_a_share_too(self):
        self.seen()
        said, counts = self.parts("--streams", "high=50%", "--compute", "50%")
        self.assertEqual(said[:3], [("high", 64), ("rest", 68), ("blocking", 132)])
        self.assertEqual(counts["placed"], 4)

    def test_what_is_not_asked_for_changes_nothing(self):
        self.seen()
        said, counts = self.parts()
        self.assertEqual({n for _, n in said}, {132})
        self.assertEqual(counts, {"placed": 0, "left": 0})

    def test_the_variable_says_the_same_and_the_option_goes_before_it(self):
        self.seen()
        self.assertEqual(self.parts(env={"BULKHEAD_STREAM_SMS": "high=50%"})[0][0], ("high", 64))
        self.assertEqual(self.parts("--streams", "high=25%", env={"BULKHEAD_STREAM_SMS": "high=50%"})[0][0], ("high", 32))

    def test_what_cannot_be_is_one_line_with_what_can(self):
        self.refused("were not tested on GPU 0 with this driver: run 'bulkhead doctor --self-test'", "--streams", "high=25%")
        self.seen("no")
        self.refused("do not bind on GPU 0", "--streams", "high=25%")
        self.seen()
        self.refused("5% of the 132 multiprocessors of GPU 0 is less than the 8 a green context takes: ask for at least high=6.07%",
                     "--streams", "high=5%")
        for text in ("high=100%", "high=0%", "high=25", "low=25%", "25%", "high=25%+", "high=101%"):
            self.refused("write it like high=25%", "--streams", text, code=2)

    def test_a_driver_that_divides_nothing_is_not_passed_over(self):
        """Under an MPS percentage, which the library cannot know of beforehand: the stream is refused with the driver's code, or made as ever
        where on_fault is open, and counted."""
        self.seen()
        pipe = self.dir.parent / "pipe"
        pipe.mkdir()
        (pipe / "bulkhead-sim-mps").write_text("")
        mps = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}
        said, counts = self.parts("--streams", "high=25%", env=mps)
        self.assertEqual(said[:4], [("high", 1000 + 915), ("rest", 1000 + 915), ("blocking", 66), ("default", 66)])
        self.assertEqual(counts["placed"], 0)
        said, counts = self.parts("--streams", "high=25%", "--on-fault", "open", env=mps)
        self.assertEqual({n for _, n in said}, {66})
        self.assertEqual(counts, {"placed": 0, "left": 3 + 7})


if __name__ == "__main__":
    main()

"""What report.py makes of lines that checks left: figures against targets, what failed or did not run, tables."""
import contextlib
import io
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import report  # noqa: E402
import report_bench  # noqa: E402
import report_checks  # noqa: E402

SHARES = {f"at_{s}": {"us": 10.0, "GB_s": 5.0, "to_native": 0.97, "spread": [0.9, 1.0]} for s in (100, 50, 25)}
NCCL = {"check": "NCCL in tenants", "ok": True, "nccl": "2.28.9", "all_reduce": {"8 B": {"native_us": 9.7, "native_GB_s": 0.0, **SHARES}},
        "one_tenant_50": {"collectives": 12000, "seconds": 6.3, "held_s": 3.1},
        "caps_30_70": {"by NVLink": {"collectives": 12000, "seconds": 9.1}, "through the host": {"hung": "no progress for 40 s"}}}
SOLO = {"per_s": 9000.0, "p50_ms": 0.1, "p99_ms": 0.2}
ROUND = {"tenants": 2, "least_rate": 1.0, "worst_p99": 1.0, "total_per_s": 18000.0, "fewest_requests": 11500}
MLP = {"check": "density: mlp at 10 %, spatial", "ok": True, "solo": SOLO, "passed": 9, "rounds": [ROUND]}
RIVAL = {"check": "density: mlp at 10 %, libvgpu.so", "ok": True, "solo": SOLO, "passed": 1, "rounds": [ROUND]}
KIND = {"native_per_s": 100.0, "to_native": 0.985, "spread": [0.98, 1.0], "p50_to_native": 1.01}
WHOLE = {"check": "end to end without limits", "ok": False, "gemm": KIND, "train": {**KIND, "to_native": 0.995}}
COPIES = {"check": "audit: every copy of PyTorch is in the log, observe", "ok": True, "missing": {}, "calls": 549, "entries": 649}


def met(checks):
    return {what: good for _, what, _, _, good in report_checks.rows(checks)}


class Report(unittest.TestCase):
    def test_figures_are_judged(self):
        said = met([NCCL, MLP, RIVAL, WHOLE, COPIES])
        self.assertTrue(said["all-reduce of 8 B, to native, the lowest of 100, 50 and 25 %"])
        self.assertTrue(said["collectives under 30/70 caps, by NVLink"])
        self.assertFalse(said["collectives under 30/70 caps, through the host"])
        self.assertTrue(said["tenants that pass, mlp"])
        self.assertTrue(said["the same, times a rival's 1"])
        self.assertFalse(said["gemm without limits, to native"])
        self.assertTrue(said["train without limits, to native"])
        self.assertNotIn("decode without limits, to native", said)
        self.assertTrue(next(good for what, good in said.items() if "CUPTI" in what))

    def test_bench_figures_are_judged(self):
        def case(row, name, figure, variant, *values):
            return {"row": row, "case": name, "figure": figure, "variant": variant, "samples": list(values), "median": sorted(values)[len(values) // 2]}
        bench = {"cases": [case(1, "cuLaunchKernel", "p50", "native", 2000, 2100, 2200), case(1, "cuLaunchKernel", "p50", "bulkhead", 2050, 2170, 2240),
                           case(1, "cuLaunchKernel, with 90%", "p50", "native", 2000), case(1, "cuLaunchKernel, with 90%", "p50", "bulkhead", 2151),
                           case(1, "cuMemsetD8 4 KiB", "p50, added", "enforce, with a grant", 61), case(7, "x alone at 10%", "error", "bulkhead", 1),
                           case(7, "y alone at 10%", "error", "bulkhead", 4.1)]}
        said = {what: good for _, what, _, _, good in report_bench.rows({"compute": bench})}
        self.assertEqual(said, {"cuLaunchKernel, p50 added": True, "cuLaunchKernel, with 90%, p50 added": False, "cuMemsetD8 4 KiB, enforce, p50 added": False,
                                "share error, kernels alone, 2 cases, points: mean, worst": False})

    def test_one_that_lost_is_missed(self):
        worse = {**NCCL, "all_reduce": {"8 B": {**NCCL["all_reduce"]["8 B"], "at_25": {**SHARES["at_25"], "to_native": 0.94}}}}
        self.assertFalse(met([worse])["all-reduce of 8 B, to native, the lowest of 100, 50 and 25 %"])
        self.assertFalse(met([{**MLP, "passed": 7}])["tenants that pass, mlp"])
        self.assertFalse(next(iter(met([{**COPIES, "missing": {"cuMemcpyHtoD": 1}}]).values())))

    def test_what_did_not_come_to_figures_judges_nothing(self):
        for line in ({"check": "NCCL in tenants", "ok": None, "skipped": "it needs two GPUs"}, {"check": MLP["check"], "ok": False, "error": "no MPS"},
                     {"check": WHOLE["check"], "ok": False, "error": "x"}, {"check": "modes: slice", "ok": False, "p99_to_alone": 0.4}):
            self.assertEqual(report_checks.rows([line]), [], line)
            self.assertEqual(report_checks.tables([line]), [], line)

    def test_the_page_has_its_tables(self):
        checks = [NCCL, MLP, WHOLE, COPIES]
        page = report.page({}, checks, {})
        self.assertIn("| 8 B | 9.7 |", page)
        self.assertIn("through the host: hung no progress for 40 s", page)
        self.assertIn("9 tenants pass", page)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            report.summary(checks, {})
        self.assertIn("3 passed, 1 failed, 0 not run", out.getvalue())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

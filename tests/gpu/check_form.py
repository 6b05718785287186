#!/usr/bin/env python3
"""One case of memory_e2e_test on the machine's own driver: check_form.py PROGRAM CASE. Nobody else may use the GPU."""
import os
import subprocess
import sys

from outside import emit


def main():
    program, case = sys.argv[1:3]
    done = subprocess.run([program, f"--gtest_filter={case}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "BULKHEAD_TEST_DRIVER": "real"}, timeout=80)
    skipped = "[  SKIPPED ]" in done.stdout
    passed = done.returncode == 0 and "[  PASSED  ] 1 test" in done.stdout
    said = [line for line in done.stdout.splitlines() if line and not line.startswith("[")]
    figures = {"skipped": "the driver has no such form"} if skipped else {} if passed else {"error": " | ".join(said)[-900:]}
    emit(f"books against NVML: {case}", None if skipped else passed, exit=done.returncode, **figures)


if __name__ == "__main__":
    main()

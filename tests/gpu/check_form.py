#!/usr/bin/env python3
"""Cases of an end-to-end test on the machine's own driver: check_form.py PROGRAM CASES NAME. Nobody else may use the GPU.

CASES is a filter of GoogleTest. All that ran must pass and one must have; where all were skipped nothing was run."""
import os
import re
import subprocess
import sys

from outside import emit


def count(text, outcome):
    found = re.search(rf"\[  {outcome:7} \] (\d+) test", text)
    return int(found[1]) if found else 0


def main():
    program, cases, name = sys.argv[1:4]
    try:
        done = subprocess.run([program, f"--gtest_filter={cases}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={**os.environ, "BULKHEAD_TEST_DRIVER": "real"}, timeout=80)
    except subprocess.TimeoutExpired as late:
        emit(name, False, error="not done after 80 s: " + (late.stdout or b"").decode(errors="replace")[-900:])
        return
    passed, skipped = count(done.stdout, "PASSED"), count(done.stdout, "SKIPPED")
    good = done.returncode == 0 and passed + skipped > 0
    said = [line for line in done.stdout.splitlines() if line and not line.startswith("[")]
    figures = {} if good else {"error": " | ".join(said)[-900:] or done.stdout[-900:]}
    if good and passed == 0:
        figures = {"skipped": "the driver has no such form"}
    emit(name, None if good and passed == 0 else good, exit=done.returncode, passed=passed, **figures)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Shows that tools/check_exports.sh accepts a library that is right and names each fault of one that is not."""
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from def_table import read  # noqa: E402


def names():
    for table in ("cuda.def", "nvml.def", "nccl.def"):
        yield from (row.name for row in read(os.path.join(ROOT, "src/abi", table))[0] if row.hook)
    yield from ("dlsym", "dlvsym", "ioctl")


def build(folder, exports, extra="", flags=()):
    source, library = os.path.join(folder, "a.c"), os.path.join(folder, "a.so")
    with open(source, "w", encoding="utf-8") as file:
        file.write("\n".join(f"int {name}(void) {{ return 0; }}" for name in exports) + "\n" + extra + "\n")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-fno-builtin", "-nostartfiles", "-Wl,-z,now,-z,nodelete,-soname,libbulkhead.so.0",
                    "-o", library, source, *flags],
                   check=True)
    return library


def main():
    script, right = os.path.join(ROOT, "tools/check_exports.sh"), list(names())
    cases = [  # what, exports, more source, more flags, what the script must say (None: nothing)
        ("right", right, "", (), None),
        ("a hook is missing", [n for n in right if n != "cuMemAlloc_v2"], "", (), r"not exported: cuMemAlloc_v2\b"),
        ("something leaks", right + ["helper"], "", (), r"exported without a HOOK line: helper\b"),
        ("a passed function is exported", right + ["cuEventCreate"], "", (), r"without a HOOK line: cuEventCreate\b"),
        ("a new glibc", right, '__attribute__((visibility("hidden"))) int x(void) '
         "{ return __libc_start_main(); }", (), r"binds __libc_start_main of glibc 2\.34"),
        ("libm at run time", right, "", ("-Wl,--no-as-needed", "-lm"), r"needs libm\.so\.6 at run time"),
    ]
    bad = 0
    for what, exports, extra, flags, said in cases:
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run([script, build(folder, exports, extra, flags)], capture_output=True, text=True)
        out = result.stdout + result.stderr
        good = result.returncode == 0 and not out if said is None else result.returncode == 1 and re.search(said, out)
        print(f"{'ok' if good else 'NOT OK'}: {what}")
        if not good:
            print(out)
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

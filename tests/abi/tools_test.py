#!/usr/bin/env python3
"""Shows that the importer prints what a table lacks, and that a stale coverage page is noticed."""
import contextlib
import io
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tools"), HERE]
import coverage_page  # noqa: E402
import import_cuda_header  # noqa: E402
from check_header import find_header  # noqa: E402

TABLE = os.path.join(ROOT, "src/abi/cuda.def")
NAMES = os.path.join(ROOT, "src/abi/libcuda-13.0.txt")


def written(text):
    file = tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8")
    file.write(text)
    file.flush()
    return file


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def said(call, *args):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = call(*args)
    return result, out.getvalue()


def test_page():
    text = coverage_page.page()
    for page, want in ((text, 0), (text.replace("`cuInit`", ""), 1)):
        with written(page) as file:
            coverage_page.PAGE = file.name
            sys.argv = ["coverage_page.py", "--check"]
            assert said(coverage_page.main)[0] == want
    print("ok: a stale coverage page is noticed")


def test_importer():
    include, version = find_header("cuda.h", None, r"#define\s+CUDA_VERSION\s+(13000)\b")
    if not version:
        print("skipped: the importer needs the header of CUDA 13.0; none installed")
        return
    rows = import_cuda_header.table(include, read(NAMES).split())
    assert said(import_cuda_header.diff, rows, TABLE) == (0, "")
    line = "BH_HOOK(cuMemAlloc_v2, 3020, alloc, (CUdeviceptr*, dptr), (size_t, bytesize))\n"
    text = read(TABLE)
    assert text.count(line) == 1
    cases = (
        ("", "BH_PASS(cuMemAlloc_v2, 3020, UNCLASSIFIED, (CUdeviceptr*, dptr), (size_t, bytesize))\n"),
        (line.replace("3020", "2000"), "differs: cuMemAlloc_v2: "),
        (line.replace("size_t", "int"), "differs: cuMemAlloc_v2: "),
        (line + line.replace("cuMemAlloc_v2", "cuMemAllocOld"), "gone: cuMemAllocOld\n"),
    )
    for new, want in cases:
        with written(text.replace(line, new)) as file:
            count, out = said(import_cuda_header.diff, rows, file.name)
            assert count == 1 and out.startswith(want), (want, out)
    print("ok: the importer prints what is new, changed or gone")


test_page()
test_importer()

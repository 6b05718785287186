#!/usr/bin/env python3
"""Writes docs/coverage.md from the tables of entry points; `--check` fails if the page is not what they say."""
import os
import sys

from def_table import meanings, parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs/coverage.md")
TABLES = (("The driver (libcuda of CUDA 13.0)", "cuda.def"), ("NVML (of CUDA 13)", "nvml.def"))
INTRO = """# Coverage

Made from `src/abi/cuda.def` and `src/abi/nvml.def` by `tools/coverage_page.py`; do not edit.

*Hooked* functions are exported by `libbulkhead.so` and answered by it. *Passed* functions are the driver's own: the
caller holds the driver's pointer, at no cost. The page says what is intercepted, not where it was run.

What the tables do not hold: the OpenGL, EGL and VDPAU interoperation calls (`cuGL*`, `cuEGL*`, `cuVDPAU*`), which the
toolkit's stub library does not export, and the private tables behind `cuGetExportTable` and
`nvmlInternalGetExportTable`.
"""


def section(title, table):
    with open(os.path.join(ROOT, "src/abi", table), encoding="utf-8") as file:
        text = file.read()
    rows, faults = parse(text)
    if faults:
        sys.exit(f"{table}: {faults[0]}")
    known, groups = meanings(text), {}
    for row in rows:
        groups.setdefault((row.hook, row.word), []).append(row.name)
    hooked = sum(row.hook for row in rows)
    lines = [f"\n## {title}\n", f"{len(rows)} functions: {hooked} hooked, {len(rows) - hooked} passed.\n",
             "| | family or reason | functions | what it means |", "|---|---|---|---|"]
    for (hook, word), names in groups.items():
        kind = "hook" if hook else "pass"
        lines.append(f"| {kind} | [{word}](#{kind}-{word}-{table[:-4]}) | {len(names)} | {known[(hook, word)]} |")
    for (hook, word), names in groups.items():
        kind = "hook" if hook else "pass"
        lines.append(f"\n### {kind} {word} {table[:-4]}\n")
        lines.append(", ".join(f"`{name}`" for name in names))
    return "\n".join(lines) + "\n"


def page():
    return INTRO + "".join(section(title, table) for title, table in TABLES)


def main():
    text = page()
    if sys.argv[1:] == ["--check"]:
        try:
            with open(PAGE, encoding="utf-8") as file:
                current = file.read()
        except FileNotFoundError:
            current = ""
        if current != text:
            print("docs/coverage.md is not what the tables say: run tools/coverage_page.py")
            return 1
        return 0
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Print the lines of src/abi/cuda.def that a CUDA toolkit's header gives.

    import_cuda_header.py INCLUDE_DIR NAMES                 every name of NAMES as `name since (type, arg)...`
    import_cuda_header.py INCLUDE_DIR NAMES --diff CUDA_DEF  what CUDA_DEF lacks, has too much, or spells otherwise
    import_cuda_header.py --names LIBCUDA                    the exported names themselves (for NAMES)

NAMES is one exported name a line, as `--names` prints it from the stub libcuda.so of the same toolkit.
`since` is the version that cudaTypedefs.h gives the entry point (PFN_name_vNNNN); 0 where it gives none.
Only facts are taken: names, types and numbers. A preprocessor is needed: $CXX, else c++.
"""
import argparse
import os
import re
import subprocess
import sys

from def_table import read, split_name


def preprocess(include_dir, text):
    # __CUDA_API_VERSION_INTERNAL makes cuda.h declare every version and every per-thread twin under its own name.
    command = [os.environ.get("CXX", "c++"), "-x", "c++", "-E", "-P", "-D__CUDA_API_VERSION_INTERNAL",
               "-I", include_dir, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def spell(text):
    """One spelling a type: no blank before *, one between words."""
    text = re.sub(r"\s+", " ", text.strip())
    return re.sub(r"\s*\*\s*", "*", text).replace("*const", "* const")


def parameters(text):
    """[(type, arg)] of a parameter list; an array parameter is written as the pointer that it is."""
    text = text.strip()
    if text in ("", "void"):
        return []
    result = []
    for index, piece in enumerate(text.split(",")):
        match = re.fullmatch(r"(.*?)\b(\w+)\s*(\[\w*\])?", piece.strip(), re.S)
        kind, arg, array = (match[1], match[2], match[3]) if match else (piece, "", None)
        if not kind.strip() or arg in ("int", "char", "unsigned"):
            kind, arg = piece, f"arg{index}"
        result.append((spell(kind) + ("*" if array else ""), arg))
    return result


def prototypes(include_dir):
    text = preprocess(include_dir, "#include <cuda.h>\n#include <cudaProfiler.h>\n")
    found = {}
    for match in re.finditer(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(([^()]*)\)\s*;", text):
        found[match[1]] = parameters(match[2])
    return found


def typedef_versions(include_dir):
    """{(base, twin): [(version, parameter types)]} in ascending order of version."""
    text = preprocess(include_dir, "#include <cudaTypedefs.h>\n#include <cudaProfilerTypedefs.h>\n")
    found = {}
    for match in re.finditer(r"\(\s*\*\s*PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)?\s*\)\s*\(", text):
        found.setdefault((match[1], match[3] or ""), []).append(int(match[2]))
    return {key: sorted(set(value)) for key, value in found.items()}


def since_of(names, versions):
    """The n-th oldest entry point of a base name has the n-th oldest version, if there are as many of both."""
    groups = {}
    for name in names:
        base, number, twin = split_name(name)
        groups.setdefault((base, twin), []).append((number, name))
    result, odd = {}, []
    for key, members in groups.items():
        known = versions.get(key, [])
        members.sort()
        if known and len(known) != len(members):
            odd.append((key, known, [name for _, name in members]))
        for index, (_, name) in enumerate(members):
            result[name] = known[index] if len(known) == len(members) else 0
    return result, odd


def exported(library):
    text = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    return sorted({line.split()[-1] for line in text.splitlines() if re.search(r" T cu[A-Z]\w*$", line)})


def table(include_dir, names):
    declared, versions = prototypes(include_dir), typedef_versions(include_dir)
    since, odd = since_of(names, versions)
    for key, known, members in odd:
        print(f"import_cuda_header: {key[0]}{key[1]}: versions {known} for {members}", file=sys.stderr)
    rows = {}
    for name in names:
        if name not in declared:
            print(f"import_cuda_header: {name} is exported but not declared", file=sys.stderr)
        rows[name] = (since[name], declared.get(name, []))
    return rows


def render(row):
    since, params = row
    return ", ".join([str(since)] + [f"({kind}, {arg})" for kind, arg in params])


def diff(rows, path):
    """Prints what the table at path lacks, has too much or spells otherwise; new lines are ready to classify."""
    table, faults = read(path)
    have, changed = {row.name: row for row in table}, len(faults)
    for fault in faults:
        print(fault)
    for name in sorted(rows.keys() | have.keys()):
        if name not in rows:
            print(f"gone: {name}")
        elif name not in have:
            since, params = rows[name]
            print(f"BH_PASS({name}, {since}, UNCLASSIFIED" + "".join(f", ({k}, {a})" for k, a in params) + ")")
        elif (have[name].since, [k for k, _ in have[name].params]) != (rows[name][0], [k for k, _ in rows[name][1]]):
            print(f"differs: {name}: the header has {render(rows[name])}")
        else:
            continue
        changed += 1
    return changed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("include_dir", nargs="?")
    parser.add_argument("names", nargs="?")
    parser.add_argument("--diff", metavar="CUDA_DEF")
    parser.add_argument("--names", dest="library", metavar="LIBCUDA")
    args = parser.parse_args()
    if args.library:
        print("\n".join(exported(args.library)))
        return 0
    if not args.include_dir or not args.names:
        parser.error("INCLUDE_DIR and NAMES are needed")
    rows = table(args.include_dir, open(args.names, encoding="utf-8").read().split())
    if args.diff:
        return 1 if diff(rows, args.diff) else 0
    for name, row in sorted(rows.items()):
        print(f"{name} {render(row)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Compares our declarations with a CUDA toolkit's headers: every signature and `since` of cuda.def, and the size,
alignment, offset, width and value of every record, member and enumerator of src/abi/cuda_*.h; the same of nvml.def's
signatures and nvml_*.h where there is an nvml.h. Writes a translation unit of static_asserts and lets the compiler
judge. Prints a line where a header is not installed; exits 77 where there is none.

    check_header.py [--include DIR] [--nvml DIR]    where cuda.h and nvml.h are, if not in the usual places
    check_header.py --mutants                       breaks copies of src/abi and fails if a fault goes unnoticed
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from def_table import read, split_name  # noqa: E402
from import_cuda_header import preprocess  # noqa: E402

PROLOGUE = """
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
namespace own {
#include "abi/cuda_types.h"
}
#define __CUDA_API_VERSION_INTERNAL  // every version and per-thread twin under its own name
#include <cuda.h>
#include <cudaProfiler.h>
#include <cudaProfilerTypedefs.h>
#include <cudaTypedefs.h>
template <class A, class B>
constexpr bool same_kind = std::is_fundamental_v<A> || std::is_fundamental_v<B>
                               ? std::is_same_v<A, B>
                               : sizeof(A) == sizeof(B) && std::is_enum_v<A> == std::is_enum_v<B>;
"""


NVML_PROLOGUE = """
#include <cstddef>
#include <type_traits>
#include <utility>
namespace own {
#include "abi/nvml_types.h"
}
%s
#define NVML_NO_UNVERSIONED_FUNC_DEFS  // every version under its own name
#include <nvml.h>
template <class A, class B>
constexpr bool same_kind = std::is_fundamental_v<A> || std::is_fundamental_v<B>
                               ? std::is_same_v<A, B>
                               : sizeof(A) == sizeof(B) && std::is_enum_v<A> == std::is_enum_v<B>;
"""
INCLUDES = "".join(f"#include <{name}>\n" for name in
                   ("cuda.h", "cudaProfiler.h", "cudaTypedefs.h", "cudaProfilerTypedefs.h"))


def find_header(name, given, pattern):
    """(folder, what `pattern` finds in the header), (None, "") if there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/usr"]
    for folder in [given] if given else [os.path.join(home, "include") for home in homes if home]:
        if os.path.exists(os.path.join(folder, name)):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                found = re.search(pattern, file.read())
            return folder, found[1] if found else ""
    return None, ""


def strip(text):
    return re.sub(r"//[^\n]*|^#[^\n]*", "", text, flags=re.M)


def closing(text, start):
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError("no closing brace")


def members(body, prefix=""):
    """Paths of all members, those of nested and of nameless records included."""
    index = 0
    while index < len(body):
        nested = re.match(r"\s*(?:struct|union)\b[^;{]*\{", body[index:])
        if nested:
            start = index + nested.end() - 1
            end = closing(body, start)
            name = re.match(r"\}\s*(\w*)\s*;", body[end:])
            if name[1]:
                yield prefix + name[1]
            yield from members(body[start + 1:end], prefix + (name[1] + "." if name[1] else ""))
            index = end + name.end()
            continue
        member = re.match(r"\s*[^;{}]*?(\w+)\s*(?:\[[^;]*\])?;", body[index:])
        if not member:
            return
        yield prefix + member[1]
        index += member.end()


def asserts(text, declared):
    """static_asserts for one of our headers; `declared` are the words that the toolkit's header knows."""
    text = strip(text)
    for match in re.finditer(r"^enum (\w+) : [\w ]+\{([^}]*)\};", text, re.M):
        if match[1] in declared:
            yield f"static_assert(sizeof(own::{match[1]}) == sizeof(::{match[1]}));"
            yield (f"static_assert(std::is_same_v<std::underlying_type_t<own::{match[1]}>, "
                   f"std::underlying_type_t<::{match[1]}>>, \"{match[1]}\");")
        for name in re.findall(r"(\w+) = ", match[2]):
            if name in declared:
                yield f"static_assert(static_cast<long long>(own::{name}) == static_cast<long long>(::{name}));"
    for match in re.finditer(r"^(?:struct|union) (?:alignas\(\d+\) )?(\w+) \{", text, re.M):
        name, start = match[1], match.end() - 1
        if name not in declared:
            continue
        yield f"static_assert(sizeof(own::{name}) == sizeof(::{name}) && alignof(own::{name}) == alignof(::{name}));"
        for path in members(text[start + 1:closing(text, start)]):
            yield f"static_assert(offsetof(own::{name}, {path}) == offsetof(::{name}, {path}));"
            yield (f"static_assert(same_kind<decltype(std::declval<own::{name}&>().{path}), "
                   f"decltype(std::declval<::{name}&>().{path})>, \"{name}.{path}\");"
                   .replace("decltype(", "std::remove_reference_t<decltype((").replace(f".{path})", f".{path}))>"))
    for match in re.finditer(r"^using (\w+) =", text, re.M):
        if match[1] in declared:
            yield f"static_assert(sizeof(own::{match[1]}) == sizeof(::{match[1]}));"


def unit(include, abi):
    declared = set(re.findall(r"\w+", preprocess(include, INCLUDES)))
    lines = [PROLOGUE]
    for path in sorted(glob.glob(os.path.join(abi, "cuda_*.h"))):
        with open(path, encoding="utf-8") as file:
            lines += asserts(file.read(), declared)
    rows, _ = read(os.path.join(abi, "cuda.def"))
    known = [row for row in rows if row.name in declared]
    for row in known:
        types = ", ".join(kind for kind, _ in row.params)
        lines.append(f'static_assert(std::is_same_v<decltype(&::{row.name}), CUresult (*)({types})>, "{row.name}");')
        base, _, twin = split_name(row.name)
        if f"PFN_{base}_v{row.since}{twin}" in declared:  # the resolver's type at `since` must be this entry point's
            lines.append(f'static_assert(std::is_same_v<decltype(&::{row.name}), PFN_{base}_v{row.since}{twin}>);')
    return "\n".join(lines) + "\n", len(known), len(rows)


def nvml_unit(include, abi):
    source = "#define NVML_NO_UNVERSIONED_FUNC_DEFS\n#include <nvml.h>\n"
    declared = set(re.findall(r"\w+", preprocess(include, source)))
    with open(os.path.join(include, "nvml.h"), encoding="utf-8", errors="replace") as file:
        macros = set(re.findall(r"#define (\w+)", file.read()))
    texts = []
    for path in sorted(glob.glob(os.path.join(abi, "nvml_*.h"))):
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    # The header's macros would eat our constants of the same name: copy ours before it is included.
    constants = [name for name in re.findall(r"inline constexpr [\w ]+ (\w+) =", "".join(texts)) if name in macros]
    lines = [NVML_PROLOGUE % "\n".join(f"constexpr long long k_{name} = own::{name};" for name in constants)]
    lines += [f'static_assert(k_{name} == static_cast<long long>({name}), "{name}");' for name in constants]
    for text in texts:
        lines += asserts(text, declared)
    rows, _ = read(os.path.join(abi, "nvml.def"))
    known = [row for row in rows if row.name in declared and (row.params or row.hook)]
    for row in known:
        types, answer = ", ".join(kind for kind, _ in row.params), "nvmlReturn_t"
        if row.name == "nvmlErrorString":
            answer = "const char*"
        lines.append(f'static_assert(std::is_same_v<decltype(&::{row.name}), {answer} (*)({types})>, "{row.name}");')
    return "\n".join(lines) + "\n", len(known), len(rows)


def judge(include, abi, make=unit):
    """(the compiler's faults, a line that says what was compared)"""
    text, known, total = make(include, abi)
    compiler = os.environ.get("CXX", "c++")
    folders = ["-I", os.path.dirname(abi), "-I", include]
    command = [compiler, "-std=c++20", "-fsyntax-only", "-w", *folders, "-x", "c++", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    faults = [line for line in result.stderr.splitlines() if "error" in line]
    if result.returncode != 0 and not faults:
        faults = [f"{compiler} failed: {result.stderr[:200]}"]
    facts = text.count("static_assert") - known
    said = f"{known} of {total} signatures and {facts} facts compared, {len(faults)} differ"
    return faults, said


MUTANTS = [  # file, what it says, what a fault would say
    ("cuda.def", "BH_HOOK(cuMemAlloc_v2, 3020, alloc, (CUdeviceptr*, dptr), (size_t, bytesize))",
     "BH_HOOK(cuMemAlloc_v2, 3020, alloc, (CUdeviceptr*, dptr), (unsigned int, bytesize))"),
    ("cuda.def", "BH_HOOK(cuCtxCreate_v3, 11040,", "BH_HOOK(cuCtxCreate_v3, 12050,"),
    ("cuda_memory.h", "  void* win32HandleMetaData;\n", ""),
    ("cuda_memory.h", "  unsigned short usage;\n  unsigned char reserved[54];",
     "  unsigned int usage;\n  unsigned char reserved[52];"),
    ("cuda_result.h", "CUDA_ERROR_OUT_OF_MEMORY = 2", "CUDA_ERROR_OUT_OF_MEMORY = 3"),
    ("cuda_handles.h", "using CUdeviceptr_v1 = unsigned int;", "using CUdeviceptr_v1 = unsigned long long;"),
    ("cuda_graph.h", "  long long reserved2;\n", ""),
]


def run_mutants(include):
    missed = 0
    for name, old, new in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            abi = os.path.join(folder, "abi")
            shutil.copytree(os.path.join(ROOT, "src/abi"), abi)
            with open(os.path.join(abi, name), encoding="utf-8") as file:
                text = file.read()
            assert text.count(old) == 1, (name, old)
            with open(os.path.join(abi, name), "w", encoding="utf-8") as file:
                file.write(text.replace(old, new))
            if not judge(include, abi)[0]:
                print(f"not noticed: {name}: {old.strip()} -> {new.strip()}")
                missed += 1
    print(f"{len(MUTANTS)} broken declarations, {missed} not noticed")
    return missed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--include")
    parser.add_argument("--nvml")
    parser.add_argument("--mutants", action="store_true")
    args = parser.parse_args()
    cuda, version = find_header("cuda.h", args.include, r"#define\s+CUDA_VERSION\s+(13\d+)")
    nvml, major = find_header("nvml.h", args.nvml or args.include, r"#define\s+NVML_API_VERSION\s+(13)\b")
    if args.mutants:
        if not version:
            print("cuda.h: skipped, no header of CUDA 13 installed")
        return 77 if not version else 1 if run_mutants(cuda) else 0
    bad = ran = 0
    for name, folder, found, make in (("cuda.h", cuda, version, unit), ("nvml.h", nvml, major, nvml_unit)):
        if not found:
            print(f"{name}: skipped, {'not of CUDA 13: ' + folder if folder else 'none installed'}")
            continue
        faults, said = judge(folder, os.path.join(ROOT, "src/abi"), make)
        print("\n".join(faults + [f"{name} {found}: {said}"]))
        bad, ran = bad + len(faults), ran + 1
    return 1 if bad else 0 if ran else 77


if __name__ == "__main__":
    sys.exit(main())

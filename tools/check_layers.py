#!/usr/bin/env python3
"""Checks who includes whom: every folder may use only the folders below it that RULES names.

Looks at `#include "..."` in the sources and at the DEPS of bh_library() in each CMakeLists.txt.
Usage: check_layers.py [ROOT] | --self-test. Exit 0 clean, 1 with one line a violation.
"""
import pathlib
import re
import sys
import tempfile

LEVELS_0_TO_2 = {"base", "kernels", "abi", "shm", "wire", "grant", "audit", "policy", "gpu"}
# Folder -> the other folders it may include. hook never gets grant or audit.
RULES = {
    "base": set(),
    "kernels": set(),
    "abi": {"base"},
    "wire": {"base"},
    "grant": {"base"},
    "shm": {"base", "abi"},
    "audit": {"base", "abi"},
    "policy": {"base", "abi", "shm"},
    "gpu": {"base", "abi", "shm"},
    "hook": {"base", "abi", "shm", "wire", "policy"},
    "sim": {"base", "abi", "kernels"},
    "cli": {"base", "abi", "shm", "wire", "grant", "audit", "policy", "gpu", "kernels"},
    "daemon": LEVELS_0_TO_2,
}
# Level 4: may use everything below; nothing, not even another of them, uses these.
TOP = {"bench", "tests", "examples", "integrations"}
BELOW_TOP = set(RULES)
SUFFIXES = {".h", ".cc", ".c", ".S", ".def", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def folder_of(relative):
    """The layer a path (relative to the root) belongs to, or None."""
    parts = relative.parts
    if len(parts) > 2 and parts[0] == "src":
        return parts[1]
    if len(parts) > 1 and (parts[0] in TOP or parts[0] == "kernels"):
        return parts[0]
    return None


def target_of(root, source, text):
    """The layer that `#include "text"` in `source` reaches: own folder first, then src/, then root."""
    for base in (source.parent, root / "src", root):
        candidate = (base / text).resolve()
        if candidate.is_file() and root in candidate.parents:
            return folder_of(candidate.relative_to(root))
    first = text.split("/")[0]  # made by the build, or missing: judged by its name
    return first if first in RULES or first in TOP else None


def allowed(user, used):
    if user == used:
        return True
    if user in TOP:
        return used in BELOW_TOP
    return used in RULES.get(user, set())


def check_includes(root):
    for tree in ["src", "kernels", *sorted(TOP)]:
        for path in sorted((root / tree).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            relative = path.relative_to(root)
            user = folder_of(relative)
            if user is None:
                continue
            if user not in RULES and user not in TOP:
                yield f"{relative}: folder '{user}' has no rule in tools/check_layers.py"
                continue
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                match = INCLUDE.match(line)
                used = target_of(root, path, match.group(1)) if match else None
                if used is not None and not allowed(user, used):
                    yield f'{relative}:{number}: {user} may not include {used} ("{match.group(1)}")'


def check_targets(root):
    for path in sorted(root.glob("src/*/CMakeLists.txt")) + sorted(root.glob("kernels/CMakeLists.txt")):
        user = folder_of(path.relative_to(root))
        text = re.sub(r"#.*", "", path.read_text())
        for call in re.finditer(r"\bbh_library\s*\(([^)]*)\)", text):
            deps = re.search(r"\bDEPS\b(.*)", call.group(1), re.S)
            for name in re.findall(r"\bbh_([a-z]+)", deps.group(1) if deps else ""):
                if name in BELOW_TOP | TOP and not allowed(user, name):
                    yield f"{path.relative_to(root)}: {user} may not link bh_{name}"


def check(root):
    return [*check_includes(root), *check_targets(root)]


def self_test():
    files = {
        "src/base/status.h": "#pragma once\n",
        "src/audit/log.h": '#include "base/status.h"\n',
        "src/hook/good.cc": '#include "base/status.h"\n#include "good.h"\n#include <vector>\n',
        "src/hook/good.h": "",
        "src/hook/bad.cc": '#include "base/status.h"\n#include "audit/log.h"\n',
        "src/base/up.h": '#include "../hook/good.h"\n',
        "src/cli/down.cc": '#include "bench/suite.h"\n',
        "src/sim/CMakeLists.txt": "bh_library(bh_sim SOURCES a.cc DEPS bh_base bh_shm)\n",
        "src/new/x.cc": "\n",
        "bench/suite.h": '#include "hook/good.h"\n',
        "tests/e2e/x_test.cc": '#include "bench/suite.h"\n',
    }
    expected = {"src/hook/bad.cc:2", "src/base/up.h:1", "src/cli/down.cc:1", "src/sim/CMakeLists.txt",
                "src/new/x.cc", "tests/e2e/x_test.cc:1"}
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name).resolve()
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        found = {line.split(": ")[0] for line in check(root)}
    if found != expected:
        print(f"self-test: missed {sorted(expected - found)}, invented {sorted(found - expected)}")
        return 1
    return 0


def main(arguments):
    if arguments[:1] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parent.parent).resolve()
    problems = check(root)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

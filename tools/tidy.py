#!/usr/bin/env python3
"""clang-tidy over many sources at the price of a few.

Nearly all of clang-tidy's time goes to the system's headers, once per source. So sources that are
compiled with the same options are looked at as one unit that includes them all. Sources that cannot stand in one unit
(two files' own names meet) are kept apart by their text, and where that misses one it is found by the compiler, at the
price of a second look. All files of a unit in which clang-tidy finds anything are looked at alone: what is reported is
always what the file says alone.

usage: tidy.py [--tidy PROGRAM] [--jobs N] [--alone] BUILD_DIR < list of sources
       tidy.py --self-test [--tidy PROGRAM]
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

from apart import apart

NOISE = re.compile(r"^(\d+ warnings? (and \d+ errors? )?generated|Suppressed |Use -(header|system)|\d+ warnings? treated)")
LARGEST_UNIT = 32  # more do not save much and would leave a core idle


def options(command):
    """The compiler's options that matter to what a source means, in one tuple."""
    words = shlex.split(re.sub(r"-Winvalid-pch|-include \S*/cmake_pch\.hxx", "", command))  # the compiler's own, not clang's
    kept, skip = [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-o", "-c", "-MF", "-MT"):
            skip = True
        elif not word.startswith(("-O", "-g", "-M", "-fPI")) and not word.endswith(("c++", "g++", "clang++")):
            kept.append(word)
    return tuple(kept)


def run(words, cwd):
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, "".join(line + "\n" for line in done.stdout.splitlines() if not NOISE.match(line))


def unit_text(sources):
    return "".join(f'#include "{source}"  // NOLINT\n' for source in sources)


def blamed(out, sources):
    """How many errors of the compiler's output stand in each source, or in a header on its account."""
    count, within = collections.Counter(), None
    for line in out.splitlines():
        if line.startswith("In file included from"):
            within = None
        chain = re.match(r"(?:In file included|  +) *from (/[^:]+):", line)
        if chain and chain.group(1) in sources:
            within = chain.group(1)
        error = re.match(r"(/[^:]+):\d+:\d+: (?:fatal )?error", line)
        if error:
            count[error.group(1) if error.group(1) in sources else within] += 1
    return count


def standing_together(sources, flags, directory, text_file):
    """The sources in units that compile. Those with errors leave a unit and try to make the next one."""
    while sources:
        unit, left = sources, []
        while len(unit) > 1:
            text_file.write_text(unit_text(unit))
            code, out = run(["c++", *flags, "-w", "-fsyntax-only", "-fmax-errors=0", str(text_file)], directory)
            if code == 0:
                break
            errors = blamed(out, set(unit))
            leaving = [s for s in unit[1:] if errors[s]] or unit[1:]
            unit = [s for s in unit if s not in leaving]
            left += leaving
        yield unit
        sources = left


def seen(sources):
    """The headers' rule of .clang-tidy and these sources themselves: in a unit they are headers."""
    rule = re.search(r"^HeaderFilterRegex: *'(.*)'", pathlib.Path(".clang-tidy").read_text(), re.M)
    names = "|".join(os.path.basename(s).replace(".", r"\.") for s in sources)
    return (rule.group(1) + "|" if rule else "") + f"/({names})$"


def look(tidy, build, sources, flags, directory):
    """The findings in these sources, as text; empty is clean."""
    if len(sources) == 1:
        code, out = run([tidy, "-quiet", sources[0], "--", *flags], directory)
        return out if code != 0 or out.strip() else ""
    with tempfile.TemporaryDirectory(dir=build) as work:  # below the tree, so that .clang-tidy holds for the unit
        text_file = pathlib.Path(work, "unit.cc")
        text_file.write_text(unit_text(sources))
        code, out = run([tidy, "-quiet", f"-header-filter={seen(sources)}", str(text_file), "--", *flags], directory)
        if code == 0 and not out.strip():
            return ""
        parts = list(standing_together(sources, flags, directory, text_file))
    if len(parts) == 1:  # it compiles, so there is a finding: each file says by itself what it is
        parts = [[one] for one in sources]
    return "".join(look(tidy, build, part, flags, directory) for part in parts)


def units(entries, wanted, alone):
    """Sources by options, the longest units first, so that no core is left with one at the end."""
    pieces = []
    groups = collections.defaultdict(list)
    for entry in entries:
        if entry["file"] in wanted:
            wanted.discard(entry["file"])  # a source compiled twice is looked at once
            key = (options(entry["command"]), entry["directory"])
            groups[key].append(entry["file"])
    for (flags, directory), sources in groups.items():
        for unit in ([one] for one in sources) if alone else apart(sources, LARGEST_UNIT):
            pieces.append((unit, flags, directory))
    return sorted(pieces, key=lambda piece: -len(piece[0]))


def check(tidy, build, wanted, jobs, alone):
    entries = json.loads((build / "compile_commands.json").read_text())
    failed = False
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(look, tidy, build, *unit) for unit in units(entries, wanted, alone)]
        for one in waiting:
            out = one.result()
            sys.stdout.write(out)
            failed = failed or bool(out)
    for left in sorted(wanted):
        print(f"{left}: the build does not compile it")
    return 1 if failed or wanted else 0


SAMPLES = {
    "clean.cc": "namespace { int once() { return 1; } }\nint clean() { return once(); }\n",
    "meets.cc": "namespace { int once() { return 2; } }\nint meets() { return once(); }\n",
    "other.cc": "int other() { return 3; }\n",
    "wrong.cc": "int* wrong() { return 0; }\n",  # modernize-use-nullptr
}


def self_test(tidy):
    """Clean sources pass together, a clash of names is no finding, and a finding inside a unit is reported."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name).resolve()
        os.chdir(root)
        (root / ".clang-tidy").write_text("Checks: '-*,modernize-use-nullptr'\nWarningsAsErrors: '*'\n")
        for file, text in SAMPLES.items():
            (root / file).write_text(text)
        entries = [{"file": str(root / f), "directory": name, "command": f"c++ -std=c++20 -o x.o -c {root / f}"}
                   for f in SAMPLES]
        (root / "compile_commands.json").write_text(json.dumps(entries))

        def passes(*files):
            return check(tidy, root, {str(root / f) for f in files}, 1, alone=False) == 0

        good = passes("clean.cc", "meets.cc", "other.cc")
        caught = not passes("clean.cc", "other.cc", "wrong.cc") and not passes("clean.cc", "meets.cc", "wrong.cc")
        missed = not passes("clean.cc", "absent.cc")
    print(f"tidy self-test: clean passes {good}, a finding is reported {caught}, an unbuilt source is named {missed}")
    return 0 if good and caught and missed else 1


def main():
    parser = argparse.ArgumentParser(description="clang-tidy, several sources at a time")
    parser.add_argument("--tidy", default="clang-tidy")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--alone", action="store_true", help="one source at a time, as an editor does")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("build", nargs="?", type=pathlib.Path)
    args = parser.parse_args()
    if args.self_test:
        return self_test(args.tidy)
    wanted = {os.path.abspath(line.strip()) for line in sys.stdin if line.strip()}
    return check(args.tidy, args.build.resolve(), wanted, args.jobs, args.alone)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Which sources can stand in one unit of translation, told by their text: two whose own names meet cannot.

tools/tidy.py looks at such units; the build compiles them where no compiler cache is (bh_units in cmake/bulkhead.cmake).

usage: apart.py LARGEST < lines of TARGET|SOURCE|SOURCE...   prints the units of each target as CMake's UNITY_GROUP
"""
import functools
import pathlib
import re
import sys

ROOTS = [pathlib.Path(), pathlib.Path("src")]  # as the compiler is told, from the tree's root
NO_NAMES = {"alignas", "char", "int", "unsigned", "noexcept", "const", "struct", "enum", "constexpr", "decltype", "static_assert"}


def own_names(source, hidden_only=False):
    """The names that a file defines at the outer level, by its layout: such a line begins in column 0. hidden_only: those of
    its unnamed namespace. None: it expands a table, whose names do not stand in it."""
    names, hidden = set(), False
    for line in pathlib.Path(source).read_text(errors="replace").splitlines():
        if re.match(r'#include ".*\.def"', line) and not source.endswith(".h"):
            return None
        macro = re.match(r"# *define (\w+)", line)
        if macro and not hidden_only:
            names.add(macro.group(1))
        if line.startswith(("namespace {", "}  // namespace")):
            hidden = line == "namespace {"
        elif (hidden or not hidden_only) and re.match(r"(?!using [\w:]+;|using namespace|namespace|extern)[A-Za-z\[]", line):
            found = re.findall(r"(?<![\w:.])([A-Za-z_]\w*)\s*(?:\(|=|\{|;|\[(?!\[)|$)", line)
            names.update([name for name in found if name not in NO_NAMES][:1])
    return names


@functools.cache
def headers(file):
    """The project's headers that a file includes, at whatever remove."""
    found = set()
    for name in re.findall(r'^#include "(.*\.h)"', pathlib.Path(file).read_text(errors="replace"), re.M):
        for root in (pathlib.Path(file).parent, *ROOTS):
            if (root / name).is_file():
                header = str((root / name).resolve())
                if header not in found:
                    found |= {header} | headers(header)
                break
    return frozenset(found)


@functools.cache
def header_names(header):
    return frozenset(own_names(header))


class Unit:
    """Sources, the names they define, those of their unnamed namespaces, and those of the headers they include. A hidden name
    that a header has too would be ambiguous where it is used."""

    def __init__(self):
        self.sources, self.names, self.hidden, self.included = [], set(), set(), set()

    def takes(self, names, hidden, included):
        return not (self.names & names or self.hidden & included or hidden & self.included)

    def add(self, source, names, hidden, included):
        self.sources.append(source)
        self.names |= names
        self.hidden |= hidden
        self.included |= included


def apart(sources, largest):
    """The sources in as few units as their own names allow, none of them larger than `largest`."""
    found = []
    for source in sources:
        names = own_names(source)
        if names is None or len(sources) == 1:
            yield [source]
            continue
        about = (names, own_names(source, hidden_only=True), set().union(*map(header_names, headers(source))))
        home = next((unit for unit in found if len(unit.sources) < largest and unit.takes(*about)), None)
        if home is None:
            home = Unit()
            found.append(home)
        home.add(source, *about)
    yield from (unit.sources for unit in found)


def main():
    for line in sys.stdin:
        target, *sources = line.strip().split("|")
        for number, unit in enumerate(apart(sources, int(sys.argv[1]))):
            if len(unit) > 1:
                names = " ".join(f'"{source}"' for source in unit)
                print(f"set_source_files_properties({names} TARGET_DIRECTORY {target} PROPERTIES UNITY_GROUP {target}_{number})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

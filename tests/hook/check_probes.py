#!/usr/bin/env python3
"""check_probes.py LIBRARY DOCS: the library's .note.stapsdt holds exactly the probes that docs/probes.md lists, with as many arguments
as it says; the page's bpftrace lines name those probes, each at least once, and only arguments they have. What must be caught is tried on
pages made wrong. Exit 77 (skipped) if the library was built without sys/sdt.h."""
import re
import subprocess
import sys

LINE = re.compile(r"^    bpftrace -e (.*)$", re.M)
ATTACH = re.compile(r"^\"usdt:\$lib:(\w+):(\w+) \{ (.*) \}\"$")


def in_library(path):
    """name -> number of arguments, as `readelf -n` reads the notes; a probe may have several places."""
    text = subprocess.run(["readelf", "-nW", path], capture_output=True, text=True, check=True).stdout
    found = {}
    for block in text.split("stapsdt")[1:]:
        fields = dict(re.findall(r"\s(Provider|Name|Arguments): *(.*)$", block, re.M))
        if fields.get("Provider") == "bulkhead":
            found.setdefault(fields["Name"], set()).add(len(fields.get("Arguments", "").split()))
    return found


def wrong_with(page, found):
    """What the page says that the library does not hold; empty if all is well."""
    listed = {name: {len(arguments.split(","))} for name, arguments in re.findall(r"^\| `([a-z]+)` \| ([^|]*) \|", page, re.M)}
    out = [] if listed == found else [f"the table has {listed}, the library {found}"]
    tried = set()
    for line in LINE.findall(page):
        m = ATTACH.match(line)
        if not m or m[1] != "bulkhead" or m[2] not in found:
            out.append(f"no such probe: {line}")
            continue
        tried.add(m[2])
        most = max([-1, *(int(n) for n in re.findall(r"\barg(\d+)\b", m[3]))])
        if most >= min(found[m[2]]):
            out.append(f"{m[2]} has no arg{most}: {line}")
        if text := re.search(r'printf\(\\"(.*?)\\"(.*)\)', m[3]):
            wanted, given = len(re.findall(r"%\w", text[1])), text[2].count(",")
            if wanted != given:
                out.append(f"{wanted} places and {given} values: {line}")
    if tried != set(found):
        out.append(f"no bpftrace line for {sorted(set(found) - tried)}")
    return out


library, docs = sys.argv[1:3]
found, page = in_library(library), open(docs).read()
if not found:
    print("no probe: built without sys/sdt.h (package systemtap-sdt-dev)")
    sys.exit(77)
problems = wrong_with(page, found)
for old, new in (("$lib:bulkhead:grow", "$lib:bulkhead:grew"), ("$lib:bulkhead:grow", "$lib:bulkheads:grow"), ("hist(arg1)", "hist(arg2)"),
                 ("| `grow` | device, bytes |", "| `grow` | device |"), ("comm, pid, arg0)", "comm, pid)"),
                 ("usdt:$lib:bulkhead:context", "usdt:$lib:bulkhead:joined")):
    if old not in page:
        problems.append(f"nothing to make wrong: {old}")
    elif not wrong_with(page.replace(old, new), found):
        problems.append(f"not caught: {new}")
if problems:
    print(*problems, sep="\n")
    sys.exit(1)
print(f"{len(found)} probes")

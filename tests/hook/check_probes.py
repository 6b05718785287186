#!/usr/bin/env python3
"""check_probes.py LIBRARY DOCS: the library's .note.stapsdt holds exactly the probes that docs/probes.md lists, with as many arguments
as it says. Exit 77 (skipped) if the library was built without sys/sdt.h."""
import re
import subprocess
import sys

library, docs = sys.argv[1:3]
text = subprocess.run(["readelf", "-nW", library], capture_output=True, text=True, check=True).stdout
found = {}
for block in text.split("stapsdt")[1:]:
    fields = dict(re.findall(r"\s(Provider|Name|Arguments): *(.*)$", block, re.M))
    if fields.get("Provider") == "bulkhead":
        found.setdefault(fields["Name"], set()).add(len(fields.get("Arguments", "").split()))
if not found:
    print("no probe: built without sys/sdt.h (package systemtap-sdt-dev)")
    sys.exit(77)
wanted = {}
for name, arguments in re.findall(r"^\| `([a-z]+)` \| ([^|]*) \|", open(docs).read(), re.M):
    wanted[name] = {len(arguments.split(","))}
if found != wanted:
    print(f"in the library: {found}\nin {docs}: {wanted}")
    sys.exit(1)
print(f"{len(found)} probes")

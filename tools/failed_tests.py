#!/usr/bin/env python3
"""What failed, in few lines: a CI shows the end of a log only.

For a folder in which ctest ran: each failed test's name and what it printed around its failures. For a log: the same of the
whole log. At most LINES lines a test; where nothing looks like a failure, its last lines.

usage: failed_tests.py BUILD_DIR | LOG
       failed_tests.py --self-test
"""
import pathlib
import re
import sys
import tempfile

LINES = 60  # of one test
LAST = 40   # of a test that does not say what failed
BEFORE, AFTER = 2, 8
SIGNS = re.compile(r"Failure$|FAILED|\bERROR\b|\berror: |Traceback|Error\b|Sanitizer|[Aa]ssertion|\*\*\*|FOUND|terminate called|no such|not found")
BEGIN = re.compile(r"^\d+/\d+ Testing: (.*)$")


def excerpt(lines):
    """The lines around signs of failure, with `...` for what is left out."""
    kept = set()
    for at, line in enumerate(lines):
        if SIGNS.search(line):
            kept.update(range(max(0, at - BEFORE), min(len(lines), at + AFTER + 1)))
    if not kept:
        return lines[-LAST:]
    chosen = sorted(kept)
    if len(chosen) > LINES:  # the first failure explains most; the end says how it ended
        chosen = chosen[:LINES * 3 // 4] + chosen[-(LINES // 4):]
    out, last = [], -1
    for at in chosen:
        if at != last + 1:
            out.append("...")
        out.append(lines[at])
        last = at
    return out


def sections(text):
    """Each test's output, by its name."""
    found, name = {}, None
    for line in text.splitlines():
        begin = BEGIN.match(line)
        if begin:
            name = begin.group(1)
            found[name] = []
        elif name is not None:
            found[name].append(line)
    return found


def of_folder(folder):
    """The failed tests of ctest's last run in a build folder; none when it had none."""
    logs = folder / "Testing" / "Temporary"
    failed, log = logs / "LastTestsFailed.log", logs / "LastTest.log"
    if not failed.is_file():
        return
    found = sections(log.read_text(errors="replace")) if log.is_file() else {}
    for line in failed.read_text().splitlines():
        name = line.partition(":")[2]
        print(f"-- {name} failed:")
        print("\n".join(excerpt(found.get(name, ["(it left no output)"]))))


def self_test():
    """A failed test is named with its failure, a passed one is not, one without a sign shows its end, and a long one is short."""
    with tempfile.TemporaryDirectory() as name:
        logs = pathlib.Path(name, "Testing", "Temporary")
        logs.mkdir(parents=True)
        noise = "".join(f"noise {i}\n" for i in range(200))
        rule = "-" * 58 + "\n"
        (logs / "LastTest.log").write_text("".join(
            f"{n}/3 Testing: {test}\n{n}/3 Test: {test}\nOutput:\n{rule}{out}<end of output>\n"
            for n, test, out in ((1, "good", "good says so\n"), (2, "bad", noise + "a.cc:7: Failure\nExpected: true\n" + noise),
                                 (3, "mute", noise), (4, "loud", "x: Failure\n" * 500))))
        (logs / "LastTestsFailed.log").write_text("2:bad\n3:mute\n4:loud\n")
        found = sections((logs / "LastTest.log").read_text())
        bad, mute, loud = (excerpt(found[test]) for test in ("bad", "mute", "loud"))
    good = list(found) == ["good", "bad", "mute", "loud"]
    shown = "a.cc:7: Failure" in bad and "Expected: true" in bad and len(bad) < 20
    ends = len(mute) == LAST and mute[-2] == "noise 199"
    short = len(loud) <= LINES + 2
    print(f"failed_tests self-test: sections {good}, a failure is shown {shown}, an end is shown {ends}, and it is short {short}")
    return 0 if good and shown and ends and short else 1


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    at = pathlib.Path(sys.argv[1])
    if at.is_dir():
        of_folder(at)
    elif at.is_file():
        print("\n".join(excerpt(at.read_text(errors="replace").splitlines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

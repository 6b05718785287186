#!/usr/bin/env python3
"""Checks the relative links of our Markdown: the file is there, and so is the heading after '#'.

Usage: check_links.py [ROOT] | --self-test. Exit 0 clean, 1 with one line a dead link.
Links to other sites are not followed: a check must not depend on the network.
"""
import pathlib
import re
import sys
import tempfile

LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]^][^\]]*\]:\s*(\S+)")
SKIPPED = {"build", ".git", ".cache"}


def prose(text):
    """(line number, line without inline code, line) for each line outside code fences."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark:
            if fence is None:
                fence = mark.group(1)[0]
            elif mark.group(1)[0] == fence:
                fence = None
            continue
        if fence is None:
            yield number, re.sub(r"`[^`]*`", lambda m: " " * len(m.group()), line), line


def anchors(path):
    """The ids a renderer makes of the headings: lower case, punctuation gone, spaces to dashes."""
    seen, found = {}, set()
    for _, _, line in prose(path.read_text(errors="replace")):
        found.update(re.findall(r'<a\s+(?:id|name)="([^"]+)"', line))
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*\s*$", line)
        if not heading:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1))
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


def check(root):
    for path in sorted(root.rglob("*.md")):
        relative = path.relative_to(root)
        if SKIPPED & set(relative.parts):
            continue
        for number, blanked, _ in prose(path.read_text(errors="replace")):
            targets = LINK.findall(blanked) + REFERENCE.findall(blanked)
            for target in targets:
                if re.match(r"[a-z][a-z0-9+.-]*:", target):
                    continue
                name, _, anchor = target.partition("#")
                file = path if not name else (root / name[1:] if name[0] == "/" else path.parent / name)
                if not file.exists():
                    yield f"{relative}:{number}: no such file: {target}"
                elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                    yield f"{relative}:{number}: no such heading: {target}"


def self_test():
    files = {
        "README.md": "# Top\n[a](docs/a.md) [b](docs/a.md#the-part-2) [c](https://x.invalid/y)\n"
                     "```\n[d](gone.md)\n```\n`[e](gone.md)` [f](gone.md)\n[g](docs/a.md#other) [h](#top)\n"
                     "![p](docs/p.svg)\n[r]: docs/gone.md\n",
        "docs/a.md": "# A\n## The part, 2\n[up](../README.md)\n",
        "build/x.md": "[z](gone.md)\n",
    }
    expected = {"README.md:6", "README.md:7", "README.md:8", "README.md:9"}
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
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
    problems = list(check(root))
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

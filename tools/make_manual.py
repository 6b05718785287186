#!/usr/bin/env python3
"""Man pages, completions and the example configuration, all from one table each.

make_manual.py GRAMMAR.json PACKAGING_DIR OUT_DIR VERSION
GRAMMAR.json is what `bulkhead __describe` prints; the prose beside it is PACKAGING_DIR/manual/bulkhead.toml, the keys of the
configuration are PACKAGING_DIR/manual/config.toml. Writes OUT_DIR/{bulkhead.1,bulkheadd.8,bulkheadd.toml.5,bulkheadd.toml,
bulkhead.bash,_bulkhead}. Prose for a command that does not exist is an error.
"""
import json
import pathlib
import re
import sys

try:
    import tomllib
except ImportError:  # before Python 3.11
    try:
        import tomli as tomllib
    except ImportError:
        from pip._vendor import tomli as tomllib


def roff(text):
    """Plain text as roff: its escapes, and nothing at the start of a line that would be a request."""
    out = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(("\\&" + line if line[:1] in (".", "'") else line) for line in out.splitlines())


def quoted(text):
    return '"' + roff(text).replace('"', '\\(dq') + '"'


def paragraphs(text):
    return "\n.PP\n".join(roff(" ".join(p.split())) for p in text.strip().split("\n\n"))


def names_of(option, bold=True):
    shown = []
    for name in option["names"]:
        text = "\\fB" + roff(name) + "\\fR" if bold else roff(name)
        if option["value"]:
            text += (" " if not name.startswith("--") else " ") + "\\fI" + roff(option["value"]) + "\\fR"
        elif option["optional_value"] and name.startswith("--"):
            text += "[=\\fIPROFILE\\fR]"
        shown.append(text)
    return ", ".join(shown)


def options_roff(options):
    out = []
    for o in options:
        if o["positional"] or not o["help"]:
            continue
        out += [".TP", names_of(o), roff(o["help"]) + "."]
    return out


def synopsis(command, prose):
    words = ["\\fBbulkhead " + roff(command["name"]) + "\\fR"]
    if any(not o["positional"] for o in command["options"]):
        words.append("[\\fIOPTION\\fR]...")
    words += ["\\fI" + roff(o["names"][0]) + "\\fR" for o in command["options"] if o["positional"]]
    if "arguments" in prose:
        words.append("\\fI" + roff(prose["arguments"]) + "\\fR")
    return " ".join(words)


def manual(grammar, prose, version):
    page, commands = prose["page"], prose["command"]
    known = {c["name"] for c in grammar["commands"]}
    gone = set(commands) - known
    if gone:
        sys.exit(f"make_manual.py: prose for commands that do not exist: {', '.join(sorted(gone))}")
    out = [f'.TH BULKHEAD 1 "" "bulkhead {version}" "Bulkhead"', ".nh", ".ad l", ".SH NAME", f"bulkhead \\- {roff(page['name'])}", ".SH SYNOPSIS"]
    for c in grammar["commands"]:
        out += [synopsis(c, commands.get(c["name"], {})), ".br"]
    out[-1:] = [".SH DESCRIPTION", paragraphs(page["description"]), ".SH COMMANDS"]
    for c in grammar["commands"]:
        p = commands.get(c["name"], {})
        out += [f".SS {c['name']}", synopsis(c, p), ".PP", roff(c["help"]) + "."]
        if "text" in p:
            out += [".PP", paragraphs(p["text"])]
        for o in c["options"]:
            if o["positional"]:
                out += [".TP", "\\fI" + roff(o["names"][0]) + "\\fR", roff(o["help"]) + "."]
        out += options_roff(c["options"])
        for inner in c["commands"]:
            words = [roff(o["names"][0]) for o in inner["options"] if o["positional"]]
            out += [".PP", f"\\fBbulkhead {roff(c['name'])} {roff(inner['name'])}\\fR" + "".join(f" \\fI{w}\\fR" for w in words), ".RS", roff(inner["help"]) + "."]
            out += options_roff(inner["options"]) + [".RE"]
        for example in p.get("examples", []):
            out += [".PP", ".EX", roff(example), ".EE"]
    out += [".SH OPTIONS", *options_roff(grammar["options"])]
    for title, rows in (("EXIT STATUS", page["exit"]), ("ENVIRONMENT", page["environment"]), ("FILES", page["files"])):
        out.append(".SH " + title)
        for name, text in rows:
            out += [".TP", "\\fB" + roff(name) + "\\fR", roff(text)]
    out += [".SH SEE ALSO", roff(page["see_also"])]
    return "\n".join(out) + "\n"


def config_page(sections, version):
    out = [f'.TH BULKHEADD.TOML 5 "" "bulkhead {version}" "Bulkhead"', ".nh", ".ad l", ".SH NAME",
           "bulkheadd.toml \\- configuration of the node daemon of bulkhead", ".SH DESCRIPTION",
           roff("/etc/bulkhead/bulkheadd.toml is read when bulkheadd(8) starts and again on SIGHUP. All of it may be left out. A key that is "
                "not listed here, two tenants of one name or a limit over the GPU is an error that names file, line and fix."), ".PP",
           roff("Sizes are as for bulkhead(1): 10GiB, 10GB, 50%.")]
    for s in sections:
        out += [".SH " + quoted(s["name"]), roff(s["text"])]
        for name, kind, text, _ in s["keys"]:
            out += [".TP", f"\\fB{roff(name)}\\fR ({roff(kind)})", roff(text)]
    out += [".SH SEE ALSO", roff("bulkheadd(8), bulkhead(1)")]
    return "\n".join(out) + "\n"


def config_example(sections):
    out = ["# bulkheadd.toml: everything here is optional; lines begin with # where they only show how. See bulkheadd.toml(5)."]
    for s in sections:
        out += ["", "# " + s["text"], ("# " if s["name"].startswith("[[") else "") + s["name"]]
        for name, kind, text, example in s["keys"]:
            out += [f"# {text} ({kind})", "# " + example]
    return "\n".join(out) + "\n"


def words_of(options):
    return [n for o in options if not o["positional"] for n in o["names"]]


def choices(option):
    return option["value"].split("|") if "|" in option["value"] else []


def bash(grammar):
    commands = grammar["commands"]
    out = ["# bash completion of bulkhead; made by tools/make_manual.py", "_bulkhead() {",
           '  local cur prev command="" i', "  COMPREPLY=()", '  cur=${COMP_WORDS[COMP_CWORD]}', '  prev=${COMP_WORDS[COMP_CWORD-1]}',
           "  for ((i = 1; i < COMP_CWORD; i++)); do",
           "    [[ ${COMP_WORDS[i]} == -- ]] && { _command_offset $((i + 1)) 2>/dev/null; return; }",
           '    [[ -z $command && ${COMP_WORDS[i]} != -* ]] && command=${COMP_WORDS[i]}', "  done",
           '  if [[ -z $command ]]; then', f'    COMPREPLY=($(compgen -W "{" ".join([c["name"] for c in commands] + words_of(grammar["options"]))}" -- "$cur"))',
           "    return", "  fi", '  case "$command $prev" in']
    for c in commands:
        for o in c["options"]:
            if choices(o):
                pattern = "|".join(f'"{c["name"]} {n}"' for n in o["names"])
                out.append(f'    {pattern}) COMPREPLY=($(compgen -W "{" ".join(choices(o))}" -- "$cur")); return ;;')
            elif o["value"] and not o["positional"]:
                pattern = "|".join(f'"{c["name"]} {n}"' for n in o["names"])
                out.append(f"    {pattern}) return ;;")
    out += ["  esac", "  case $command in"]
    for c in commands:
        out.append(f'    {c["name"]}) COMPREPLY=($(compgen -W "{" ".join(words_of(c["options"]))}" -- "$cur")) ;;')
    out += ["  esac", "}", "complete -F _bulkhead bulkhead"]
    return "\n".join(out) + "\n"


def zsh_text(text):
    return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", " -")


def zsh(grammar):
    out = ["#compdef bulkhead", "# made by tools/make_manual.py", "_bulkhead() {", "  local -a commands", "  commands=("]
    out += [f"    '{c['name']}:{zsh_text(c['help'])}'" for c in grammar["commands"]]
    out += ["  )", "  if (( CURRENT == 2 )); then", "    _describe command commands",
            f"    compadd -- {' '.join(words_of(grammar['options']))}", "    return", "  fi", "  case $words[2] in"]
    for c in grammar["commands"]:
        specs = []
        for o in c["options"]:
            if o["positional"]:
                continue
            for n in o["names"]:
                action = ""
                if o["value"]:
                    action = f":{zsh_text(o['value'])}:" + (f"({' '.join(choices(o))})" if choices(o) else "")
                specs.append(f"'{n}[{zsh_text(o['help'])}]{action}'")
        out += [f"    {c['name']})", "      _arguments " + " ".join(specs) + " '*::command:_normal' ;;"]
    out += ["  esac", "}", '_bulkhead "$@"']
    return "\n".join(out) + "\n"


def main():
    grammar_file, packaging, out, version = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
    grammar = json.loads(grammar_file.read_text())
    for command in grammar["commands"]:
        for option in command["options"]:
            option["value"] = option["value"].split(":")[0]  # CLI11 puts the check behind the name
    prose = tomllib.loads((packaging / "manual" / "bulkhead.toml").read_text())
    sections = tomllib.loads((packaging / "manual" / "config.toml").read_text())["section"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "bulkhead.1").write_text(manual(grammar, prose, version))
    page8 = (packaging / "manual" / "bulkheadd.8.in").read_text()
    (out / "bulkheadd.8").write_text(re.sub("@VERSION@", version, page8))
    (out / "bulkheadd.toml.5").write_text(config_page(sections, version))
    (out / "bulkheadd.toml").write_text(config_example(sections))
    (out / "bulkhead.bash").write_text(bash(grammar))
    (out / "_bulkhead").write_text(zsh(grammar))


main()

# shellcheck shell=bash disable=SC2034  # ./dev reads the lists
# What each part of ./dev needs of the distribution, and how it is installed. Read by ./dev.
# Debian 12 and Ubuntu 24.04. `a|b` is: the first of them the distribution has.
# The formatter is pinned (its output differs by version), compilers are the distribution's own.
readonly PACKAGES_BUILD="g++ cmake ninja-build ccache libgtest-dev libcli11-dev nlohmann-json3-dev
  libtomlplusplus-dev libssl-dev libzstd-dev libbenchmark-dev libfmt-dev libncurses-dev systemtap-sdt-dev python3 binutils"
readonly PACKAGES_BENCH="valgrind"
readonly PACKAGES_FORMAT="clang-format-14|clang-format"
# A collector that receives in tests, and what its events are checked with.
readonly PACKAGES_SIEM="rsyslog rsyslog-relp rsyslog-openssl openssl python3-jsonschema"
readonly PACKAGES_LINT="clang-tidy shellcheck"
readonly PACKAGES_FUZZ="clang libclang-rt-dev|libclang-rt-18-dev|libclang-rt-14-dev"
readonly PACKAGES_MODEL="spin gcc libc6-dev"
# promtool, a browser, manuals, completions; a test whose tool is missing is skipped and says so
PACKAGES_SIGHT="prometheus python3-prometheus-client man-db groff zsh systemd"
# Ubuntu's is a snap, which a container cannot install
if grep -q '^ID=debian' /etc/os-release 2>/dev/null; then PACKAGES_SIGHT+=" chromium"; fi
readonly PACKAGES_SIGHT
readonly PACKAGES_PRELOAD="openjdk-17-jre-headless|default-jre-headless nodejs"

say() { printf '%s\n' "dev: $*" >&2; }
die() { say "$*"; exit 1; }

# One line per name: prints those that dpkg does not list as installed.
missing_of() {
  local installed name
  installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | sed -n 's/^ii  *//p')
  for name in "$@"; do
    local one found=""
    for one in ${name//|/ }; do
      grep -qxF -- "$one" <<<"$installed" && found=yes
    done
    [ -n "$found" ] || printf '%s\n' "$name"
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env "$@"
  elif command -v sudo >/dev/null; then
    sudo -n env "$@"
  else
    return 1
  fi
}

# Retried here as well as by apt: a mirror in the middle of its own update fails for a minute.
apt() {
  local try
  for try in 1 2 3; do
    as_root DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -qq -y \
      -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" && return 0
    say "apt-get $1 failed (try $try of 3)"
    sleep $((try * 5))
  done
  return 1
}

# The first of a|b|c that apt can install; the last one if it knows none, so that apt names it.
choose() {
  local one=""
  for one in ${1//|/ }; do
    if grep -q 'Candidate: [^(]' <<<"$(apt-cache policy "$one" 2>/dev/null)"; then break; fi
  done
  printf '%s\n' "$one"
}

# need LIST...: installs what is missing, once. A machine that has everything never calls the
# network. The stamp holds dpkg's state, so a removed package or another container is seen.
need() {
  local names stamp state
  if [ -n "${BH_PREBUILT:-}" ]; then return 0; fi
  read -ra names <<<"$(tr '\n' ' ' <<<"$*")"
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian or Ubuntu system: install the equivalents of: ${names[*]}"
    return 0
  fi
  stamp=build/.packages-$(printf '%s\n' "${names[@]}" | sha256sum | cut -c1-12)
  state=$(stat -c '%Y %s' /var/lib/dpkg/status)
  [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
  mkdir -p build
  local missing=() chosen=() name
  mapfile -t missing < <(missing_of "${names[@]}")
  if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
      die "packages are missing and neither root nor password-less sudo is at hand; run:" \
        "sudo apt-get install ${missing[*]%%|*}"
    fi
    say "installing ${#missing[@]} packages: ${missing[*]%%|*}"
    apt update || say "apt-get update failed; going on with the lists at hand"
    for name in "${missing[@]}"; do chosen+=("$(choose "$name")"); done
    apt install --no-install-recommends "${chosen[@]}" >"build/packages.log" 2>&1 || {
      tail -n 20 build/packages.log >&2
      [ -z "${OPTIONAL:-}" ] || return 1
      die "cannot install: ${chosen[*]}"
    }
  fi
  stat -c '%Y %s' /var/lib/dpkg/status >"$stamp"
}

# Tools of some tests: what cannot be had is said, and those tests are skipped and say so.
want() {
  OPTIONAL=yes need "$@" || say "going on without: $*"
}

# The first command of those given that exists; fails if none does.
tool() {
  local one
  for one in "$@"; do
    if command -v "$one" >/dev/null; then
      printf '%s\n' "$one"
      return 0
    fi
  done
  say "none of these is installed: $*"
  return 1
}

#!/usr/bin/env bash
# Checks what a built libbulkhead.so shows the loader; prints what is wrong, exits 1 on any fault.
#     tools/check_exports.sh LIBRARY
# - it exports exactly the HOOK lines of cuda.def, nvml.def and nccl.def, and dlsym, dlvsym and ioctl;
# - it asks for no glibc symbol version newer than 2.17 (what 2014's and every later distribution has);
# - it needs only libc's own libraries at run time;
# - it runs no destructor and no constructor of its own but one (mode.cc: whose ioctl comes after ours), is bound and made read-only at once, stays loaded, has no
#   executable stack, and takes at most 64 bytes of each thread's static TLS.
set -euo pipefail
export LC_ALL=C

lib=${1:?usage: check_exports.sh LIBRARY}
abi=$(dirname "$0")/../src/abi
newest=2.17
allowed='^(libc\.so\.6|libdl\.so\.2|libpthread\.so\.0|ld-linux-x86-64\.so\.2|ld-linux-aarch64\.so\.1)$'
faults=0
say() { echo "check_exports: $lib: $*"; faults=$((faults + 1)); }

symbols=$(objdump -T "$lib")
header=$(objdump -p "$lib")

# A defined symbol's line has its section where an undefined one has *UND*; version nodes are *ABS*.
have=$(awk '$1 ~ /^[0-9a-f]+$/ && !/\*UND\*/ && !/\*ABS\*/ { print $NF }' <<<"$symbols" | sort -u)
want=$({ sed -nE 's/^BH_HOOK\(([A-Za-z0-9_]+),.*/\1/p' "$abi"/cuda.def "$abi"/nvml.def "$abi"/nccl.def; printf 'dlsym\ndlvsym\nioctl\n'; } | sort -u)
[ "$(wc -l <<<"$want")" -gt 2 ] || say "no HOOK lines found in $abi"
while read -r name; do [ -z "$name" ] || say "not exported: $name"; done < <(comm -13 <(echo "$have") <(echo "$want"))
while read -r name; do [ -z "$name" ] || say "exported without a HOOK line: $name"; done < <(comm -23 <(echo "$have") <(echo "$want"))

while read -r version symbol; do
  [ -n "$version" ] || continue
  if [ "$version" = PRIVATE ]; then
    say "binds glibc's private $symbol"
  elif [ "$(printf '%s\n%s\n' "$newest" "$version" | sort -V | tail -1)" != "$newest" ]; then
    say "binds $symbol of glibc $version, newer than $newest"
  fi
done < <(awk '/\*UND\*/ && match($0, /GLIBC_[0-9A-Z.]+/) { print substr($0, RSTART + 6, RLENGTH - 6), $NF }' <<<"$symbols" | sort -u)

while read -r need; do
  [[ -z $need || $need =~ $allowed ]] || say "needs $need at run time"
done < <(awk '$1 == "NEEDED" { print $2 }' <<<"$header")

# One 8-byte entry each is the compiler's own start and end (frame_dummy); the second of INIT_ARRAY is mode.cc's.
dynamic=$(readelf -dW "$lib")
for array in INIT_ARRAYSZ FINI_ARRAYSZ PREINIT_ARRAYSZ; do
  bytes=$(awk -v tag="($array)" '$2 == tag { print $3 }' <<<"$dynamic")
  [ "${bytes:-0}" -le "$([ "$array" = INIT_ARRAYSZ ] && echo 16 || echo 8)" ] || say "$array is $bytes bytes: a constructor or destructor of ours"
done
grep -q 'FLAGS_1.*NOW.*NODELETE' <<<"$dynamic" || say "not linked with -z now -z nodelete"
grep -q 'SONAME.*\[libbulkhead\.so\.0\]' <<<"$dynamic" || say "SONAME is not libbulkhead.so.0"
segments=$(readelf -lW "$lib")
grep -q GNU_RELRO <<<"$segments" || say "not linked with -z relro"
grep -q 'GNU_STACK.* RW ' <<<"$segments" || say "its stack is executable"
tls=$(awk '$1 == "TLS" { print $6 }' <<<"$segments")
[ "$((${tls:-0}))" -le 64 ] || say "takes $((tls)) bytes of static TLS"

[ "$faults" -eq 0 ]

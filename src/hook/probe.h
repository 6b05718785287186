// USDT probes (sys/sdt.h of systemtap): one nop each and a note in .note.stapsdt that names it and where its arguments are. Only in cold
// paths. Without the header they are nothing. docs/probes.md lists them; tests/hook/check_probes.py reads the notes.
#pragma once
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define BH_PROBE2(name, a, b) DTRACE_PROBE2(bulkhead, name, a, b)
#define BH_PROBE3(name, a, b, c) DTRACE_PROBE3(bulkhead, name, a, b, c)
#else
#define BH_PROBE2(name, a, b) static_cast<void>(0)
#define BH_PROBE3(name, a, b, c) static_cast<void>(0)
#endif

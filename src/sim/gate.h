// Every exported function passes a gate: failure injection (BULKHEAD_SIM_FAIL) and, in timed mode
// (BULKHEAD_SIM_TIMED=1), the time the profile says a real driver takes. One load when neither
// is asked for.
//
// BULKHEAD_SIM_FAIL = rule [; rule]...     rule = NAME : key=value [: key=value]...
//   code=N      answer N instead of calling (default: no answer, only the delay)
//   after=N     let N calls through first (default 0)
//   count=N     then act on N calls, afterwards never (default: for ever)
//   every=N     act on each Nth call only (default 1)
//   delay_us=N  sleep that long first
// NAME is an exported name, or a prefix ending in '*'. The first rule that names a function holds.
#pragma once
#include <cstdint>

namespace bulkhead::sim {

struct Gate {
  const char* name;
  bool armed;           // set by the library's constructor, before any call; then only read
  std::uint64_t calls;  // guarded by the gates' mutex
  std::uint64_t after, count, every, delay_ns, latency_ns;
  std::uint32_t code;
  bool fails;
};

// Fills the gates from the environment. Text that cannot be read is reported on stderr, once: a test
// whose injection is misspelt must not pass by accident.
void arm_gates(Gate* gates, unsigned n) noexcept;
void arm_gates(Gate* gates, unsigned n, const char* text) noexcept;

// True: answer `code` and do not call.
[[gnu::cold]] bool blocked(Gate& g, std::uint32_t& code) noexcept;

inline bool stopped(Gate& g, std::uint32_t& code) noexcept { return g.armed && blocked(g, code); }

bool timed_mode() noexcept;
void sleep_ns(std::uint64_t ns) noexcept;

}  // namespace bulkhead::sim

// What the gate counts by (gate.cc), and its operations that need a daemon or the log (gate_audit.cc).
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "bench/suites.h"

namespace bulkhead::bench {

// One run of a worker under callgrind: what is summed up of it.
struct Counted {
  std::string work, op;
  Params params;
  unsigned thread = 1;                    // by the order of their start
  std::string object = "libbulkhead.so";  // whose functions
  std::string without = {};               // but for those whose name holds this
};
// The self cost, instructions. False: it failed; the reason is on stderr.
[[nodiscard]] bool count_instructions(const Lab& lab, const Variant& v, const Tenant& t,
                                      const Counted& what, std::uint64_t& instructions);
// A copy in a tenant under enforce with a grant; an entry's way from its lane into the tree; an entry in the verifier. `tell` hears each.
// False: one could not be counted.
[[nodiscard]] bool gate_audit(const Lab& lab, const Variant& ours,
                              const std::function<void(const std::string&, double)>& tell);

}  // namespace bulkhead::bench

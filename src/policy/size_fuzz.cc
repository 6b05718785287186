// Any text: no crash, no overflow; what is accepted reads back as itself.
#include <cstdlib>
#include <string>

#include "policy/limit.h"
#include "policy/size.h"

namespace {
void require(bool held) {
  if (!held) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::policy;
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const Grammar grammar : {Grammar::kOurs, Grammar::kHami}) {
    Size s;
    if (parse_size(text.c_str(), grammar, &s)) {
      require(!s.is_percent || (s.percent_x100 > 0 && s.percent_x100 <= 10000));
      require(s.is_percent || s.bytes != 0 || grammar == Grammar::kHami);
      require(!s.is_percent || limit_of(s, ~0ull) <= ~0ull);
      char out[kSizeText];
      Size again;
      if (!s.is_percent && s.bytes != 0) {
        require(parse_size(format_exact(s.bytes, out), grammar, &again) && again.bytes == s.bytes);
        require(parse_size(format_size(s.bytes, out), grammar, &again) && again.bytes <= s.bytes);
      }
    }
    MemorySpec spec;
    if (parse_memory_spec(text.c_str(), grammar, &spec)) {
      require(spec.count <= kMaxSpecGpus && (spec.has_every || spec.count > 0));
      const Size* chosen = size_for(spec, 1, "GPU-12345678");
      require(chosen == nullptr || chosen->bytes != 0 || chosen->is_percent ||
              grammar == Grammar::kHami);
    }
  }
  return 0;
}

// selftest.json: what self-tests saw, by GPU and driver (docs/formats/selftest.md). For the command line, which writes it, and the
// daemon, which reads it.
#pragma once
#include <string>
#include <vector>

#include "base/outcome.h"
#include "shm/node.h"

namespace bulkhead::gpu {

inline constexpr const char* kSelfTestFile = "selftest.json";

struct Finding {
  shm::Seen verdict = shm::Seen::kUnknown;
  std::string evidence;
};
struct SelfTest {
  std::string uuid, driver, name,
      tested;  // GPU-..., "580.159.04", for people, "2026-11-22T14:00:00Z"
  unsigned sms = 0, sm_unit = 0, sm_least = 0;
  unsigned green_sms = 0, green_unit = 0;
  unsigned chunks = 0, chunk_sms = 0;  // of partitions; 0 unless they work
  Finding spatial, partitions, green, slice;
  [[nodiscard]] shm::Verdict verdict() const;
};
[[nodiscard]] const char* seen_text(shm::Seen seen);

// Entries that are malformed are left out; text that is not schema 1 is as none at all.
[[nodiscard]] std::vector<SelfTest> self_tests_from_json(const std::string& text);
[[nodiscard]] std::string self_tests_to_json(const std::vector<SelfTest>& all);
// The directory's file; none: empty.
[[nodiscard]] std::vector<SelfTest> load_self_tests(const std::string& state);
// Replaces the entry of the same GPU and driver, by rename. The problem, or "".
[[nodiscard]] std::string keep_self_test(const std::string& state, const SelfTest& test);

}  // namespace bulkhead::gpu

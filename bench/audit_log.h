// What the cases of the audit log share (suite_audit.cc): the log's own records, the bare disk, the verifier.
#pragma once
#include <cstdint>
#include <string>

#include "bench/suites.h"

namespace bulkhead::bench {

[[nodiscard]] double per_second(std::uint64_t count, std::uint64_t ns);
// Grant 1 of tenant "bench": host to device on GPU-0, for a day.
[[nodiscard]] std::string grant_record();
// Half of what is free there, at most what `seconds` at ten million entries a second would take.
[[nodiscard]] std::uint64_t room_of(const std::string& dir, std::uint64_t seconds);
// The same bytes without a log: write and fdatasync every 10 ms by one thread.
void write_bare(Bench& b, const std::string& where, const std::string& name, std::uint64_t seconds);
// Entries a second of the verifier over the log there, which must be intact.
void verify_written(Bench& b, const std::string& where, const std::string& name, const char* goal);

}  // namespace bulkhead::bench

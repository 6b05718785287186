// Where checked entries and records go: the log's writer, or a test. One thread at a time; what it was given is taken
// over in order, and nothing of it is promised durable before durable() says so.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "abi/audit_entry.h"
#include "base/status.h"

namespace bulkhead::audit {

class Sink {
 public:
  Sink() noexcept = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  virtual ~Sink() = default;

  // Leaves of the log, in this order. An error is final: the log is not written any more (full disk: kFull, and the same
  // call may be repeated).
  [[nodiscard]] virtual Status entries(std::span<const abi::AuditEntry> batch) noexcept = 0;
  // One long record: canonical JSON, at most abi::kMaxRecordBytes.
  [[nodiscard]] virtual Status record(std::string_view json) noexcept = 0;
  // How many leaves there are, and how many of them survive the machine's crash.
  [[nodiscard]] virtual std::uint64_t size() const noexcept = 0;
  [[nodiscard]] virtual std::uint64_t durable() const noexcept = 0;
};

}  // namespace bulkhead::audit

// Where checked entries and records go: the log's writer, or a test. One thread at a time; what it was given is taken
// over in order, and nothing of it is promised durable before durable() says so.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "abi/audit_entry.h"
#include "base/status.h"

namespace bulkhead::audit {

// What a sink shows of itself. Any thread, never waits.
struct SinkFigures {
  std::uint64_t size = 0, durable = 0, signed_size = 0;
  std::uint64_t cosigned = 0;  // the largest size that a witness has cosigned since the start
  std::uint64_t segments = 0, packed = 0,
                removed = 0;      // closed; of them packed, and removed, since the start
  std::uint64_t clock_steps = 0;  // of the wall clock, that were recorded
  std::int64_t last_step_ns = 0;
  std::uint32_t witnesses = 0, witnesses_away = 0;
};

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
  [[nodiscard]] virtual SinkFigures figures() const noexcept { return {}; }
  // Of the `found` leaves that a start found: how many from `before` on somebody else than the sink itself had handed over.
  [[nodiscard]] virtual std::uint64_t arrived(std::uint64_t before, std::uint64_t found) noexcept {
    return found > before ? found - before : 0;
  }
};

}  // namespace bulkhead::audit

// Steps of the wall clock: each is a record, before anything that was stamped behind it.
#include <cstdlib>

#include "audit/writer.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kLook_ns =
    5'000'000;  // between the readings of two clocks: longer, and they say nothing
constexpr unsigned kDrift = 2000;  // 500 ppm, the most that a clock is slewed by

}  // namespace

Status Writer::put_clock_record(std::uint64_t utc_ns, std::int64_t step_ns) noexcept {
  const Status status = append_record(clock_json(utc_ns, step_ns));
  if (!status.ok()) return status;
  ++clock_steps_;
  last_step_ns_ = step_ns;
  show();
  return {};
}

// Under mutex_, before anything is appended: what is appended next may have been stamped behind the step already.
Status Writer::note_clock() noexcept {
  const std::uint64_t steady = clock_->steady_ns();
  const std::uint64_t utc = clock_->utc_ns();
  if (clock_->steady_ns() - steady > kLook_ns)
    return {};  // we were stopped between the two: next time
  const auto offset = static_cast<std::int64_t>(utc - steady);
  const std::int64_t step = offset - clock_offset_ns_;
  const auto size = static_cast<std::uint64_t>(std::llabs(step));
  if (size > kStepNs + (steady - clock_looked_ns_) / kDrift) {
    if (const Status status = put_clock_record(utc, step); !status.ok()) return status;
  }
  clock_offset_ns_ = offset;
  clock_looked_ns_ = steady;
  return {};
}

}  // namespace bulkhead::audit

// What collectives cost: docs/compute.md, 'Collectives'. By the compute thread.
#include "hook/compute_books.h"
#include "hook/process.h"
#include "policy/compute/collective.h"

namespace bulkhead::hook {

void agree(const Flight& f, shares::Reading& r) noexcept {
  std::uint64_t least = r.elapsed_ns;
  if (f.comm_place >= 0 && f.segment.ops == 1) {
    shm::CommEntry& comm =
        process.region->header.comms[static_cast<unsigned>(f.comm_place) % shm::kMaxComms];
    least = shares::agree_ns(comm.word, f.comm_number, r.elapsed_ns);
  } else if (f.comm_place == kNotAgreed && f.segment.predicted_ns < least) {
    least = f.segment.predicted_ns;
  }
  const auto bound = [least](std::uint64_t& ns) { ns = ns < least ? ns : least; };
  bound(r.elapsed_ns);
  bound(r.span_ns);
  bound(r.fresh_ns);
  bound(r.virtual_ns);
  bound(r.paced_ns);
}

}  // namespace bulkhead::hook

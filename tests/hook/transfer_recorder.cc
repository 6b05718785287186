// The auditor and the copy books of these tests, in place of the library's own objects, which are left out of the link.
#include "base/status.h"
#include "tests/hook/transfer_world.h"

namespace bulkhead::shm {
struct NodePage;
}

namespace bulkhead::hook {

using test::auditor;

constinit std::atomic<std::uint8_t> audit_state{kAuditUndecided};
bool audit_on() noexcept { return auditor.on; }
CUresult audit_before(const AuditEvent& event, AuditTicket& ticket) noexcept {
  const bool refuse = auditor.refuse_at == 0;
  if (auditor.refuse_at >= 0) --auditor.refuse_at;
  ticket = {auditor.log.size(), &auditor};
  auditor.log.push_back({event, refuse, CUDA_SUCCESS});
  return refuse ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
}
void audit_failed(const AuditTicket& ticket, CUresult result) noexcept {
  auditor.log.at(ticket.sequence).failed = result;
}

bool copy_admit(unsigned, std::uint64_t, CopyDirection) noexcept {
  ++auditor.admitted;
  return true;
}
void note_copy(unsigned, std::uint64_t bytes, CopyDirection direction) noexcept {
  auditor.counted += bytes;
  auditor.counted_as[static_cast<unsigned>(direction)] += bytes;
}

// What else the library's audit answers, where it is linked: nothing stands in the way, nothing is to be done.
Status audit_may_start() noexcept { return Status{}; }
void audit_page(const shm::NodePage&) noexcept {}
void audit_forked_child() noexcept {}

}  // namespace bulkhead::hook

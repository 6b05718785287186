// A call of several members: all are granted and recorded before any of them is called.
#pragma once
#include <sys/mman.h>

#include "hook/hook.h"
#include "hook/private_lock.h"
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// The tickets of a batch, for its failure entries: on the stack for most, else mapped. Without memory for them the failures of a
// large batch are not told: its entries over-report, and that is counted as a fault.
class TicketList {
 public:
  explicit TicketList(std::size_t n) noexcept {
    if (n <= kInline) return;
    bytes_ = n * sizeof(AuditTicket);
    map();
  }
  ~TicketList() {
    if (far_ != nullptr) unmap();
  }
  TicketList(const TicketList&) = delete;
  TicketList& operator=(const TicketList&) = delete;
  void add(const AuditTicket& t) noexcept {
    AuditTicket* const at = bytes_ != 0 ? far_ : near_;
    if (at != nullptr) at[count_++] = t;
  }
  void failed(CUresult result) const noexcept {
    const AuditTicket* const at = bytes_ != 0 ? far_ : near_;
    for (std::size_t i = 0; i < count_; ++i) move_failed(at[i], result);
  }

 private:
  static constexpr std::size_t kInline = 64;
  [[gnu::cold, gnu::noinline]] void map() noexcept {
    const Undisturbed keep;
    void* const at =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    far_ = at == MAP_FAILED ? nullptr : static_cast<AuditTicket*>(at);
    if (far_ == nullptr) count(Count::kFault);
  }
  [[gnu::cold, gnu::noinline]] void unmap() noexcept {
    const Undisturbed keep;
    ::munmap(far_, bytes_);
  }

  AuditTicket near_[kInline];
  AuditTicket* far_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t count_ = 0;
};

// `event(i)` is the event of member i, whose op is kNone if it moves nothing. `refused_at` says which member was refused.
template <class Event>
CUresult batch_begin(std::size_t count, const On& on, std::size_t* refused_at, const Event& event,
                     TicketList& tickets) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    AuditEvent e = event(i);
    if (e.op == AuditOp::kNone) continue;
    e.flags |= abi::kBatchMember;
    if (on.async) e.flags |= abi::kAsynchronous;
    e.stream = static_cast<std::uint16_t>(i < abi::kManyStreams ? i : abi::kManyStreams);
    AuditTicket ticket;
    const CUresult refused = audit_before(e, ticket);
    if (refused != CUDA_SUCCESS) {
      tickets.failed(refused);
      if (refused_at != nullptr) *refused_at = i;
      return refused;
    }
    tickets.add(ticket);
  }
  return CUDA_SUCCESS;
}

template <class Event, class Call>
[[gnu::noinline]] CUresult watched_batch(std::size_t count, const On& on, std::size_t* refused_at,
                                         const Event& event, const Call& call) noexcept {
  if (move_captured(on)) return call();
  const bool audited = audit_on();
  TicketList tickets{audited ? count : 0};
  if (audited) {
    const CUresult refused = batch_begin(count, on, refused_at, event, tickets);
    if (refused != CUDA_SUCCESS) return refused;
  }
  if (count != 0) move_admit(event(0));  // the rate is waited for once
  const CUresult r = call();
  if (r != CUDA_SUCCESS) tickets.failed(r);
  for (std::size_t i = 0; r == CUDA_SUCCESS && i < count; ++i) move_counted(event(i));
  return r;
}
template <class Event, class Call>
[[gnu::always_inline]] inline CUresult batch(std::size_t count, const On& on,
                                             std::size_t* refused_at, const Event& event,
                                             const Call& call) noexcept {
  if (!moves_watched()) [[likely]]
    return call();
  return watched_batch(count, on, refused_at, event, call);
}

}  // namespace bulkhead::hook

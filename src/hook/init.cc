// cuInit: where a process that may not go on is told so, and where one that may is bound.
#include "hook/audit_mode.h"
#include "hook/next.h"
#include "hook/process.h"
#include "hook/resolve.h"

namespace bulkhead::hook {

CUresult cuInit(unsigned int flags) noexcept {
  if (!wanted()) return next.cuInit(flags);
  // Before the driver wakes (100 ms): a region that is missing or damaged. With limits in the
  // variables a missing one is made, once the devices are known.
  if (process.mode.load(std::memory_order_acquire) == Mode::kUndecided) {  // pairs with bind
    static_cast<void>(resolve_cuda(Load::kYes));
    const Status s = attach_early();
    const bool may_create =
        settings().has_limits && (s.code() == Errc::kNotFound || s.code() == Errc::kNotReady);
    if (settings().malformed || (!s.ok() && !may_create))
      fault(settings().malformed ? kMalformed : s);
    if (!audit_may_start().ok()) return CUDA_ERROR_SYSTEM_NOT_READY;
  }
  if (process.mode.load(std::memory_order_acquire) == Mode::kDenied) {  // pairs with bind_locked()
    return CUDA_ERROR_SYSTEM_NOT_READY;
  }
  const CUresult r = next.cuInit(flags);
  if (r != CUDA_SUCCESS) return r;
  return mode() == Mode::kDenied ? CUDA_ERROR_SYSTEM_NOT_READY : r;
}

}  // namespace bulkhead::hook

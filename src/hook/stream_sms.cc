#include "hook/stream_sms.h"

#include <atomic>

#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/next.h"
#include "hook/private_lock.h"
#include "hook/process.h"
#include "policy/stream_sms.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

struct Part {
  CUgreenCtx green = nullptr;
  CUcontext context = nullptr;  // the same, as the driver names it to who asks for a stream's
};
struct Parts {
  Part high{}, rest{};
};
constinit std::atomic<std::uint32_t> asked_x100{0};
constinit PrivateLock making{};
constinit Parts parts[kMaxDevices]{};  // under `making`

CUresult make_part(const Device& d, CUdevResource& sms, Part& out) noexcept {
  CUdevResourceDesc desc{};
  Part made{};
  CUresult r = next.cuDevResourceGenerateDesc(&desc, &sms, 1);
  if (r == CUDA_SUCCESS)
    r = next.cuGreenCtxCreate(&made.green, desc, d.ordinal, CU_GREEN_CTX_DEFAULT_STREAM);
  if (r != CUDA_SUCCESS) return r;
  if (next.cuCtxFromGreenCtx(&made.context, made.green) != CUDA_SUCCESS) made.context = nullptr;
  out = made;
  return CUDA_SUCCESS;
}

// The driver rounds up to its unit, and the unit is what it answers to a wish for one.
CUresult split(const Device& d, CUdevResource& high, CUdevResource& rest) noexcept {
  CUdevResource all{}, least{};
  unsigned one = 1;
  CUresult r = next.cuDeviceGetDevResource(d.ordinal, &all, CU_DEV_RESOURCE_TYPE_SM);
  if (r == CUDA_SUCCESS) r = next.cuDevSmResourceSplitByCount(&least, &one, &all, &rest, 0, 1);
  if (r != CUDA_SUCCESS) return r;
  const std::uint32_t want =
      policy::high_sms(asked_x100.load(kRelaxed), all.sm.smCount, least.sm.smCount);  // a number
  if (one != 1 || want == 0) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  r = next.cuDevSmResourceSplitByCount(&high, &one, &all, &rest, 0, want);
  if (r != CUDA_SUCCESS) return r;
  const bool as_asked = one == 1 && high.sm.smCount == want && rest.sm.smCount != 0;
  return as_asked ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
}

CUresult make_parts(const Device& d, Parts& out) noexcept {
  const Undisturbed keep;
  CUdevResource high{}, rest{};
  Parts made{};
  leading_begin();  // what they take is seen by the supervisor, who books it
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;  // another thread may be capturing
  static_cast<void>(next.cuThreadExchangeStreamCaptureMode(&mode));
  CUresult r = split(d, high, rest);
  if (r == CUDA_SUCCESS) r = make_part(d, high, made.high);
  if (r == CUDA_SUCCESS) {
    r = make_part(d, rest, made.rest);
    if (r != CUDA_SUCCESS) static_cast<void>(next.cuGreenCtxDestroy(made.high.green));
  }
  static_cast<void>(next.cuThreadExchangeStreamCaptureMode(&mode));
  leading_end();
  if (r == CUDA_SUCCESS) out = made;
  return r;
}

CUresult place(const Device& d, CUstream* out, int priority) noexcept {
  const Held held{making};  // also while the stream is made: its part must not go meanwhile
  Parts& p = parts[d.number];
  if (p.high.green == nullptr) {
    if (const CUresult r = make_parts(d, p); r != CUDA_SUCCESS) return r;
  }
  const Part& part = priority < 0 ? p.high : p.rest;
  return next.cuGreenCtxStreamCreate(out, part.green, CU_STREAM_NON_BLOCKING, priority);
}

template <class Call>
[[gnu::cold, gnu::noinline]] CUresult divided(CUstream* out, unsigned flags, int priority,
                                              Call call) noexcept {
  const Here at = here();
  shm::ComputeEntry* const e = at.device == nullptr ? nullptr : share_of(*at.device);
  if (e == nullptr || out == nullptr) return call();
  if (flags == CU_STREAM_NON_BLOCKING && at.context == primary_context(at.device->number)) {
    const CUresult r = place(*at.device, out, priority);
    if (r == CUDA_SUCCESS) e->streams_placed.fetch_add(1, kRelaxed);  // a statistic
    if (r == CUDA_SUCCESS) return r;
    count(Count::kFault);
    if (!settings().open_fault) return r;
  }
  const CUresult r = call();
  if (r == CUDA_SUCCESS) e->streams_left.fetch_add(1, kRelaxed);  // a statistic
  return r;
}

}  // namespace

void stream_parts_bound() noexcept {
  asked_x100.store(settings().stream_sms_x100, kRelaxed);  // a number of its own
}

void stream_parts_gone(std::uint32_t number) noexcept {
  if (asked_x100.load(kRelaxed) == 0) return;  // a number
  const Held held{making};
  Parts& p = parts[number];
  for (const Part& part : {p.high, p.rest})
    if (part.context != nullptr) compute_context_gone(part.context);
  p = {};
}

void end_stream_parts(std::uint32_t number) noexcept {
  if (asked_x100.load(kRelaxed) == 0) return;  // a number
  const Held held{making};
  Parts& p = parts[number];
  for (const Part& part : {p.high, p.rest}) {
    if (part.green != nullptr) static_cast<void>(next.cuGreenCtxDestroy(part.green));
    if (part.context != nullptr) compute_context_gone(part.context);
  }
  p = {};
}

void forget_stream_parts() noexcept {
  for (Parts& p : parts) p = {};  // alone after a fork
}

CUresult cuStreamCreate(CUstream* phStream, unsigned int Flags) noexcept {
  if (asked_x100.load(kRelaxed) == 0) [[likely]]  // a number
    return next.cuStreamCreate(phStream, Flags);
  return divided(phStream, Flags, 0, [=] { return next.cuStreamCreate(phStream, Flags); });
}
CUresult cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags, int priority) noexcept {
  if (asked_x100.load(kRelaxed) == 0) [[likely]]  // a number
    return next.cuStreamCreateWithPriority(phStream, flags, priority);
  return divided(phStream, flags, priority,
                 [=] { return next.cuStreamCreateWithPriority(phStream, flags, priority); });
}

}  // namespace bulkhead::hook

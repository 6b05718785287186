#include "sim/model.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <new>

#include "sim/timed_work.h"

namespace bulkhead::sim {
namespace {

constinit thread_local ThreadState thread{};
constinit Driver* the_driver = nullptr;
pthread_once_t once = PTHREAD_ONCE_INIT;

// The child of a fork has the driver's memory but not its process: every call answers
// CUDA_ERROR_NOT_INITIALIZED there, as the real one does, until exec.
void in_child() noexcept {
  pthread_mutex_init(&the_driver->lock, nullptr);
  if (the_driver->phase == Phase::kReady) the_driver->phase = Phase::kForked;
  forget_machine();
}
void before_fork() noexcept { pthread_mutex_lock(&the_driver->lock); }
void in_parent() noexcept { pthread_mutex_unlock(&the_driver->lock); }

void make() noexcept {
  the_driver = new (std::nothrow) Driver;
  pthread_atfork(before_fork, in_parent, in_child);
}

}  // namespace

Driver& driver() noexcept {
  pthread_once(&once, make);
  return *the_driver;
}

ThreadState& thread_state() noexcept { return thread; }

Context* current_context() noexcept {
  return thread.depth == 0 ? nullptr : thread.stack[thread.depth - 1];
}

Context* to_context(CUcontext h) noexcept {
  auto* c = reinterpret_cast<Context*>(h);
  return driver().contexts.contains(c) ? c : nullptr;
}

Call::Call(Need need) noexcept {
  Driver& d = driver();
  pthread_mutex_lock(&d.lock);
  if (need == Need::kNothing) return;
  if (d.phase != Phase::kReady) {
    result = CUDA_ERROR_NOT_INITIALIZED;
    return;
  }
  if (need == Need::kInit) return;
  context = current_context();
  if (context == nullptr) {
    result = CUDA_ERROR_INVALID_CONTEXT;
  } else if (!context->alive) {
    result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  } else {
    if (d.timed) note_faults();
    result = context->sticky;
  }
}

Call::~Call() { pthread_mutex_unlock(&driver().lock); }

Range* find_range(CUdeviceptr at) noexcept {
  auto& ranges = driver().ranges;
  auto it = ranges.upper_bound(at);
  if (it == ranges.begin()) return nullptr;
  --it;
  Range& r = it->second;
  const std::size_t bytes = r.bytes == 0 ? 1 : r.bytes;
  return at - r.base < bytes ? &r : nullptr;
}

Range& add_range(Range r) noexcept {
  r.id = driver().next_id++;
  return driver().ranges.insert_or_assign(r.base, r).first->second;
}

void release_range(CUdeviceptr base) noexcept {
  auto& ranges = driver().ranges;
  const auto it = ranges.find(base);
  if (it == ranges.end()) return;
  const Range r = it->second;
  ranges.erase(it);
  if (r.kind == Kind::kSlab) {
    r.context->slabs->free(base);
  } else if (r.segment != nullptr) {
    drop_segment(r.segment);
  } else if (r.kind == Kind::kHost) {
    unmap_pages(r.base, round_up(r.bytes, 4096));
  } else if (r.kind == Kind::kIpc || r.kind == Kind::kExternal) {
    unmap_pages(r.map_base, r.map_bytes);
    if (r.object != 0) drop_object(r.object);
  }
}

bool device_span(CUdeviceptr at, std::size_t bytes) noexcept {
  while (true) {
    const Range* r = find_range(at);
    if (r == nullptr || (r->kind == Kind::kMapped && r->access == 0)) return false;
    const std::size_t here = r->bytes - (at - r->base);
    if (bytes <= here) return true;
    if (r->kind != Kind::kMapped) return false;  // only neighbouring mappings make one span
    at += here;
    bytes -= here;
  }
}

void submit(Stream& s, std::uint64_t cost_ns, EntryKind kind, unsigned sms) noexcept {
  if (driver().timed) {
    timed_submit(s, kind, cost_ns, sms);
    return;
  }
  s.ready_ns = std::max(s.ready_ns, driver().virtual_ns) + cost_ns;
  add_busy(s.context->unit, cost_ns);
}

bool done(const Stream& s) noexcept {
  if (driver().timed) return timed_done(timed_end_of(s));
  wait_for(s);
  return true;
}

void wait_for(const Stream& s) noexcept {
  Driver& d = driver();
  if (d.timed) {
    timed_sleep(timed_end_of(s));
  } else {
    d.virtual_ns = std::max(d.virtual_ns, s.ready_ns);
  }
}

// Each stream's end is taken before any is waited for: what others add meanwhile is not waited for.
void wait_for_all(Context* c) noexcept {
  if (!driver().timed) {
    wait_for(c->legacy);
    for (const Stream* s : driver().streams) {
      if (s->context == c) wait_for(*s);
    }
    for (const auto& [thread_id, s] : c->per_thread) wait_for(*s);
    return;
  }
  std::vector<Ticket> ends{timed_end_of(c->legacy)};
  for (const Stream* s : driver().streams) {
    if (s->context == c) ends.push_back(timed_end_of(*s));
  }
  for (const auto& [thread_id, s] : c->per_thread) ends.push_back(timed_end_of(*s));
  for (const Ticket& end : ends) timed_sleep(end);
}

Stream* to_stream(CUstream h, Context* current) noexcept {
  const auto value = reinterpret_cast<std::uintptr_t>(h);
  if (value > kStreamPerThread) {
    auto* s = reinterpret_cast<Stream*>(h);
    return driver().streams.contains(s) ? s : nullptr;
  }
  if (current == nullptr) return nullptr;
  const bool own = value == kStreamPerThread || (value == 0 && thread.per_thread_default);
  if (!own) return &current->legacy;
  Stream*& s = current->per_thread[static_cast<std::uint64_t>(pthread_self())];
  if (s == nullptr) {
    s = new (std::nothrow) Stream;
    s->context = current;
    s->id = driver().next_id++;
  }
  return s;
}

}  // namespace bulkhead::sim

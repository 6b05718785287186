// Timed mode, as the process's objects see it: each stream has a queue of the shared timeline from its first
// work on, each event that keeps time a stamp. All under the driver's lock, which the waits let go of.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

bool timed_context(Context& c) noexcept;  // false: no room for it
void timed_end(Context& c) noexcept;
void timed_end(Stream& s) noexcept;
// Queues it; waits for room. A copy's engine is its kind.
void timed_submit(Stream& s, EntryKind kind, std::uint64_t cost_ns, unsigned sms) noexcept;
// A kernel that ends when the word at `word` is not zero. It is this process that sees so, when it looks.
void timed_persist(Stream& s, unsigned sms, CUdeviceptr word) noexcept;
// A graph's launch: between begin and end, kernels of one size that follow each other are one entry.
void timed_batch(Stream& s, bool begin) noexcept;
bool timed_event(Event& e) noexcept;  // false: no room for its stamp
void timed_end(Event& e) noexcept;
void timed_record(Event& e, Stream& s) noexcept;
void timed_wait(Stream& s,
                const Ticket& at) noexcept;  // what is queued on `s` from here on waits for it
Ticket timed_end_of(const Stream& s) noexcept;
bool timed_done(const Ticket& at) noexcept;
void timed_sleep(const Ticket& at) noexcept;  // until it is done
// Contexts that an MPS server's other client has taken down learn of it.
void note_faults() noexcept;
// The context's own kernel has faulted.
void timed_fault(Context& c) noexcept;

}  // namespace bulkhead::sim

// The machine's timeline in shared memory: a file beside the machine's state that every process in timed mode
// maps. Nobody serves it: whoever looks brings it up to CLOCK_MONOTONIC, under one robust lock, on a copy that
// one store makes current, so a process that dies half way through has changed nothing. The dead are found by
// pid and start time when somebody looks, at most each kSweepNs; their work vanishes then.
//
// Waiting is the caller's: passed() says when to look again. That is the time of completion as far as it is
// known; it is asked again then, for others may have come meanwhile, and at least each kSweepNs while another
// process has work here, for it may have died, or this one is an MPS client, for another may fault.
#pragma once
#include "sim/timeline.h"

namespace bulkhead::sim {

inline constexpr std::uint64_t kSweepNs = 4'000'000;
inline constexpr std::uint64_t kLookAheadNs = 1'000'000'000;
inline constexpr unsigned kMaxStamps = 32768;

struct ContextRef {
  int index = -1;
  std::uint32_t generation = 0;
};
struct QueueRef {
  int index = -1;
  std::uint32_t generation = 0;
};
// A place in a queue: done when everything up to it is.
struct Ticket {
  QueueRef queue;
  std::uint64_t sequence = 0;
};

// Maps the machine's timeline (open_machine() came first). create false: only one that is there already.
// nullptr or what is wrong. Thread-safe; done once.
const char* open_timed(bool create) noexcept;

// This process's contexts and queues. False: the table is full.
bool begin_timed_context(unsigned unit, std::uint64_t mps, unsigned sm_limit,
                         ContextRef& out) noexcept;
void end_timed_context(ContextRef c) noexcept;  // at once, with what is queued
void end_timed_process() noexcept;              // all of this process's, as a clean exit
bool begin_queue(ContextRef c, int priority, unsigned sm_limit, QueueRef& out) noexcept;
void close_queue(QueueRef q) noexcept;  // goes when it is empty

enum class Push : std::uint8_t { kDone, kFull, kGone };
// Adds an entry. kFull: `depth` are queued already; look again at wake_ns. kGone: no such queue (any more).
// `on_device` of a stamp is decided here: false right behind a copy, whose engine stamps it.
Push push(QueueRef q, Entry e, std::uint64_t depth, Ticket& out, std::uint64_t& wake_ns) noexcept;
// Where a queue ends now; an invalid queue has no work.
Ticket end_of(QueueRef q) noexcept;
// False: look again at *wake_ns (CLOCK_MONOTONIC); null: the caller will not wait.
bool passed(const Ticket& at, std::uint64_t* wake_ns) noexcept;
// Ends the kernel that is the last entry of `at`: now, or as soon as it begins.
void finish(const Ticket& at) noexcept;
// Another client of its MPS server took this context down.
bool faulted(ContextRef c) noexcept;
// A kernel of the context has faulted: its work is dropped, and its MPS server's other clients go with it.
void fault(ContextRef c) noexcept;

// Times of events. A slot belongs to a context and goes with it; -1: all are taken.
int begin_stamp(ContextRef c) noexcept;
void end_stamp(int slot) noexcept;
std::uint64_t renew_stamp(int slot) noexcept;  // forgets its time; -> the version to record with
std::uint64_t stamp_ns(int slot) noexcept;     // 0: not reached

// The books, up to date. False: no timeline is open.
bool read_timeline(Timeline& out) noexcept;
std::uint64_t timed_busy_ns(unsigned unit, std::uint32_t pid, std::uint64_t start_ticks) noexcept;
std::uint64_t timed_unit_busy_ns(unsigned unit) noexcept;

}  // namespace bulkhead::sim

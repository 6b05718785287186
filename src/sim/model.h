// The process's side of the simulated driver: contexts, pointers, streams and the rules every call
// follows. One lock guards all of it (simplicity before speed); every entry point opens with a Call.
// Objects of handles are found by membership, so a wild handle is an error and not a crash.
#pragma once
#include <pthread.h>

#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "abi/cuda_types.h"
#include "sim/arena.h"
#include "sim/backing.h"
#include "sim/mps.h"
#include "sim/state.h"
#include "sim/timed.h"

namespace bulkhead::sim {

struct Context;
struct Graph;
struct Pool;

struct Capture {
  Graph* graph = nullptr;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::uint64_t id = 0;
  std::vector<CUgraphNode> tail;  // what the next node depends on
  bool origin = false;            // the stream that began it, not one that joined by an event
  bool own_graph = true;          // false: cuStreamBeginCaptureToGraph
};

struct Stream {
  Context* context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  std::uint64_t id = 0;
  std::uint64_t ready_ns = 0;  // when the last thing submitted is done, on the virtual clock
  QueueRef queue;              // timed mode: its entries
  bool shares_queue = false;
  bool batching = false;  // a graph is being launched: its kernels of equal size become one entry
  Entry held{};           // that entry; a 0: none
  Capture capture;
};

struct Event {
  Context* context = nullptr;
  unsigned flags = 0;
  bool recorded = false;
  std::uint64_t at_ns = 0;                // on the virtual clock
  int stamp = -1;                         // timed mode: where its time is stored; -1: it keeps none
  Ticket done;                            // timed mode: what was before it
  std::uint64_t capture_id = 0;           // recorded inside this capture, else 0
  std::vector<CUgraphNode> capture_tail;  // what the recording stream had done by then
};

enum class Kind : std::uint8_t {
  kPlain,  // its own segment
  kSlab,   // in the context's slabs
  kManaged,
  kPool,        // stream-ordered
  kGraph,       // by a graph's allocation node
  kMapped,      // a VMM mapping
  kHost,        // pinned host memory of ours
  kRegistered,  // the caller's host memory
  kIpc,         // another process's
  kExternal,    // a buffer of imported external memory
};

// One pointer the driver knows, by base address.
struct Range {
  Kind kind = Kind::kPlain;
  CUdeviceptr base = 0;
  std::size_t bytes = 0;  // as asked for
  Context* context = nullptr;
  int ordinal = 0;  // device the memory lies on; -1: host
  Segment* segment = nullptr;
  Pool* pool = nullptr;
  std::uint64_t object = 0;  // kIpc, kExternal: the shared object held
  std::uint64_t id = 0;
  unsigned flags = 0;
  std::uint64_t vmm = 0;      // kMapped: the allocation's handle
  std::size_t map_bytes = 0;  // kIpc, kExternal: what to unmap, from map_base
  CUdeviceptr map_base = 0;
  unsigned opened = 0;       // kIpc: times opened
  unsigned char access = 3;  // kMapped: 0 none, 1 read, 3 read and write
};

struct Context {
  int ordinal = 0;
  unsigned unit = 0;
  unsigned flags = 0;
  unsigned api_version = 3020;
  std::uint64_t id = 0;
  bool primary = false, alive = false;
  bool flags_set = false;
  Context* green_of = nullptr;  // a green context's view: resources are its primary's
  unsigned green_sms = 0;
  unsigned retained = 0;
  std::uint64_t charged_bytes = 0;
  CUresult sticky = CUDA_SUCCESS;
  std::size_t limits[16] = {};
  Arena* slabs = nullptr;
  Arena* array_slabs = nullptr;  // made by the first small array
  ContextRef timed;              // timed mode; a green context has its primary's
  Stream legacy;
  std::unordered_map<std::uint64_t, Stream*> per_thread;
  unsigned peers = 0;              // bit per ordinal
  unsigned streams = 0;            // made with cuStreamCreate
  std::uint64_t stream_bytes = 0;  // charged for them
  std::uint64_t stack_bytes = 0;  // a thread's local memory that is charged for, beyond the default
  std::uint64_t local_bytes = 0;  // charged for it
  int cache_config = 0, shared_config = 0;
};

// A GPU or MIG instance this process may use, by ordinal.
struct Device {
  unsigned unit = 0;
  Context* primary = nullptr;
  unsigned primary_flags = 0;
  unsigned contexts = 0;  // alive
  Pool* default_pool = nullptr;
  Pool* current_pool = nullptr;
  std::uint64_t graph_used = 0, graph_used_high = 0, graph_reserved = 0, graph_reserved_high = 0;
};

enum class Phase : std::uint8_t { kBefore, kReady, kForked };

struct Driver {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  Phase phase = Phase::kBefore;
  bool timed = false;
  MpsClient mps;
  bool moves_bytes =
      true;  // BULKHEAD_SIM_BYTES=off: copies, memsets and kernels leave memory alone
  std::uint64_t moved_bytes = 0;  // by copies, sets and writes since cuInit; for tests
  std::uint64_t virtual_ns = 1;
  std::uint64_t next_id = 1;
  unsigned global_captures = 0;  // running, in global mode
  std::vector<Device> devices;
  std::map<CUdeviceptr, Range> ranges;
  std::unordered_set<Context*> contexts;  // every one ever made, so that a destroyed one is known
  std::unordered_set<Stream*> streams;
  std::unordered_set<Event*> events;
};
Driver& driver() noexcept;  // made at first use, never destroyed

// What a call needs before it may do anything.
enum class Need : std::uint8_t { kNothing, kInit, kContext };

// Takes the lock and checks. result != CUDA_SUCCESS: return it and do nothing else.
class Call {
 public:
  explicit Call(Need need) noexcept;
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  CUresult result = CUDA_SUCCESS;
  Context* context = nullptr;  // the current one, if the call needs one
};

// The calling thread's stack of contexts and how stream 0 is meant in the call now running.
inline constexpr unsigned kContextDepth = 64;
struct ThreadState {
  Context* stack[kContextDepth];
  unsigned depth;
  bool per_thread_default;
  CUstreamCaptureMode capture_mode;
};
ThreadState& thread_state() noexcept;
Context* current_context() noexcept;  // nullptr: none

// CUcontext <-> Context. A green context's handle is its own; `live` answers what is wrong with it.
Context* to_context(CUcontext h) noexcept;
inline CUcontext handle_of(Context* c) noexcept { return reinterpret_cast<CUcontext>(c); }
CUresult make_context(int ordinal, unsigned flags, bool primary, unsigned api,
                      Context*& out) noexcept;
void destroy_context(Context& c) noexcept;  // gives everything of it back
inline bool valid_device(CUdevice d) noexcept {
  return d >= 0 && static_cast<std::size_t>(d) < driver().devices.size();
}

// Pointers.
Range* find_range(CUdeviceptr at) noexcept;     // the range that contains it, or nullptr
Range& add_range(Range r) noexcept;             // gives it an id
void release_range(CUdeviceptr base) noexcept;  // forgets it and gives its memory back
// True if [at, at + bytes) is known device-side memory that may be read or written.
bool device_span(CUdeviceptr at, std::size_t bytes) noexcept;

// Streams and time.
Stream* to_stream(CUstream h, Context* current) noexcept;  // nullptr: not a stream
// One more piece of work; `sms` is what a kernel fills. In timed mode it may wait for room in the stream.
void submit(Stream& s, std::uint64_t cost_ns, EntryKind kind, unsigned sms = 1) noexcept;
// Asking is waiting on the virtual clock, so that a poll comes to an end.
bool done(const Stream& s) noexcept;
void wait_for(
    const Stream& s) noexcept;  // sleeps in timed mode, without the lock; moves the clock else
void wait_for_all(Context* c) noexcept;
void at_synchronisation() noexcept;  // pools give back what is over their thresholds
void trim_pools(unsigned unit) noexcept;

}  // namespace bulkhead::sim

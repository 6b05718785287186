// The machine all processes share: one file in sim/ of the directory in use, named by the profile.
// Truth sits in per-process ledgers; a device's use is their sum, so a SIGKILL leaves no sum wrong:
// the dead process's ledger is swept. Everything is read and written under one robust mutex (this is
// a simulator: simplicity before speed). Memory that several processes may hold (IPC, shareable
// handles) is an object with a list of holders and belongs to no single ledger.
#pragma once
#include <pthread.h>

#include <cstdint>

#include "sim/profile.h"

namespace bulkhead::sim {

inline constexpr unsigned kMaxProcesses = 1024;
inline constexpr unsigned kMaxObjects = 2048;
inline constexpr unsigned kMaxHolders = 16;
inline constexpr std::uint64_t kStateMagic = 0x314d'4953'4842;  // "BHSIM1"

// One process. pid 0: free. Fields are changed under the mutex, each by one store.
struct ProcessLedger {
  std::uint32_t pid;
  std::uint32_t generation;
  std::uint64_t start_ticks;    // field 22 of /proc/PID/stat: tells a reused pid
  std::uint64_t pid_namespace;  // where the pid is one
  std::uint64_t used_bytes[kMaxUnits];
  std::uint64_t hidden_bytes[kMaxUnits];   // taken too, but not in NVML's figure for the process
  std::uint64_t managed_bytes[kMaxUnits];  // likewise; all processes' sum is taken in whole batches
  std::uint64_t busy_ns[kMaxUnits];        // modelled time of its kernels and copies
  std::uint32_t contexts[kMaxUnits];
  char name[16];
};

struct Holder {
  std::uint32_t slot;
  std::uint32_t generation;
  std::uint32_t count;  // 0: free
};

// Memory in a file or memfd. id 0: free; stored last. Charged to the device once while anyone holds it.
struct SharedObject {
  std::uint64_t id;
  std::uint64_t bytes;  // charged
  std::uint64_t
      inode;  // of its backing, with `device_number`: finds the object behind a descriptor
  std::uint64_t device_number;
  std::uint32_t unit;
  std::uint32_t named;  // 1: the backing is the file sim/obj-<id>; 0: a memfd
  std::uint32_t maker_slot, maker_generation;
  std::uint64_t token;  // what the creator wants remembered (an exported pool's properties)
  Holder holders[kMaxHolders];
};

struct SharedState {
  std::uint64_t magic;  // stored last
  std::uint64_t next_object;
  std::uint32_t processes_high;  // ledgers ever used: bounds the scans
  std::uint32_t objects_high;
  std::uint32_t next_generation;
  pthread_mutex_t mutex;
  ProcessLedger processes[kMaxProcesses];
  SharedObject objects[kMaxObjects];
};

// This process's view. Filled by open_machine(); `slot` by join_machine().
struct Machine {
  Profile profile;
  SharedState* shared = nullptr;
  int slot = -1;
  std::uint32_t generation = 0;
  char directory[256] = {};  // .../sim
};
extern constinit Machine machine;

// Reads the profile and maps the state; thread-safe, done once. nullptr or what is wrong.
const char* open_machine() noexcept;
// The same, for a program that may not look: one line on stderr at the first failure of this library.
const char* say_what_is_wrong() noexcept;
// Claims this process's ledger; idempotent. False: 1,024 live processes already.
bool join_machine() noexcept;
// In a forked child: the parent's ledger is not ours.
void forget_machine() noexcept;

// The mutex as a scope. A dead holder's lock is taken over: every word is consistent on its own.
class StateLock {
 public:
  StateLock() noexcept;
  ~StateLock();
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;
};

// Which part of a process's ledger. NVML's figure of the process is the shown part, while it has a context.
enum class Part : std::uint8_t { kShown, kHidden, kManaged };

// Ledger of bytes. `take` refuses (false) what the device has not; the dead are swept before that.
bool take(unsigned unit, std::uint64_t bytes, Part part = Part::kShown) noexcept;
void give(unsigned unit, std::uint64_t bytes, Part part = Part::kShown) noexcept;
std::uint64_t used_on(unsigned unit) noexcept;  // all processes and objects, after a sweep
void add_busy(unsigned unit, std::uint64_t ns) noexcept;
void count_context(unsigned unit, int delta) noexcept;

// Shared objects. A new one takes `bytes` (0 = refused) and is held once by this process. With
// `from_ledger` the bytes move from this process's ledger instead: no refusal for want of room.
std::uint64_t create_object(unsigned unit, std::uint64_t bytes, bool named, bool from_ledger,
                            std::uint64_t token) noexcept;
void bind_object(std::uint64_t id, int fd) noexcept;  // remembers the backing's inode
// Grows or shrinks an object that this process holds; false: the device has not that much left.
bool resize_object(std::uint64_t id, std::uint64_t bytes) noexcept;
bool find_object(int fd, SharedObject& copy) noexcept;  // by inode
bool find_object(std::uint64_t id, SharedObject& copy) noexcept;
bool hold_object(std::uint64_t id) noexcept;  // one more hold by this process; false: gone
void drop_object(std::uint64_t id) noexcept;  // one less; the last of all frees it
void object_path(std::uint64_t id, char (&out)[320]) noexcept;

// What NVML asks: bytes of one process on a unit, listed only while it has a context there. A named object (legacy IPC) is counted at its first live holder, any
// other at its maker as long as that holds it, then nowhere: so the H200's driver shows them.
struct ProcessUse {
  std::uint32_t pid;
  std::uint64_t bytes;
  std::uint64_t busy_ns;
  std::uint64_t start_ticks;  // with the pid: which process
};
// The pid is the asker's; who cannot be seen from there is left out.
unsigned process_uses(unsigned unit, ProcessUse* out, unsigned room) noexcept;  // after a sweep
std::uint64_t start_ticks_of(std::uint32_t pid) noexcept;  // 0: no such process, or a zombie

}  // namespace bulkhead::sim

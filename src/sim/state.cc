#include "sim/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "sim/presence.h"

namespace bulkhead::sim {

constinit Machine machine;

namespace {

pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;

// Makes the directory of DESIGN 8 and sim/ in it. False: none can be made.
bool make_directory(char (&out)[256]) noexcept {
  char base[200];
  if (const char* named = std::getenv("BULKHEAD_DIR"); named != nullptr && *named != 0) {
    if (std::snprintf(base, sizeof base, "%s", named) >= static_cast<int>(sizeof base))
      return false;
  } else if (::geteuid() == 0) {
    std::snprintf(base, sizeof base, "/run/bulkhead");
  } else {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    if (runtime == nullptr || *runtime == 0) return false;
    if (std::snprintf(base, sizeof base, "%s/bulkhead", runtime) >= static_cast<int>(sizeof base)) {
      return false;
    }
  }
  ::mkdir(base, ::geteuid() == 0 ? 0755 : 0700);
  std::snprintf(out, sizeof out, "%s/sim", base);
  return ::mkdir(out, 0700) == 0 || errno == EEXIST;
}

void format(SharedState& s) noexcept {
  std::memset(static_cast<void*>(&s), 0, sizeof s);
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&s.mutex, &attr);
  pthread_mutexattr_destroy(&attr);
  s.next_object = s.next_generation = 1;
  s.magic = kStateMagic;
}

// The file's bytes, so that a full tmpfs is an error here and not a SIGBUS at some later store.
const char* reserve_state(int fd, const struct stat& st) noexcept {
  if (st.st_size != 0 && st.st_blocks * 512 >= st.st_size) return nullptr;
  const int error = ::posix_fallocate(fd, 0, sizeof(SharedState));
  if (error != ENOSPC && error != EDQUOT) return nullptr;  // file systems that cannot reserve
  // One nobody has formatted yet is left as it was found; the size is set by who comes next.
  if (st.st_size == 0) static_cast<void>(!::ftruncate(fd, 0));
  return "no room for the state file (1.2 MiB) in sim/ of the directory in use";
}

// Under flock, so a formatter that was killed half way is followed by one that starts over.
const char* map_state(Machine& m) noexcept {
  char path[320];
  std::snprintf(path, sizeof path, "%s/%s", m.directory, m.profile.key);
  const UniqueFd fd{::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  if (!fd.ok() || ::flock(fd.get(), LOCK_EX) != 0) return "state file cannot be opened";
  struct stat st {};
  ::fstat(fd.get(), &st);
  const bool sized = st.st_size == static_cast<off_t>(sizeof(SharedState));
  if (!sized && st.st_size != 0) return "state file of another version: remove it";
  if (!sized && ::ftruncate(fd.get(), sizeof(SharedState)) != 0)
    return "state file cannot be sized";
  if (const char* wrong = reserve_state(fd.get(), st)) return wrong;
  void* at = ::mmap(nullptr, sizeof(SharedState), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return "state file cannot be mapped";
  auto* state = static_cast<SharedState*>(at);
  if (state->magic != kStateMagic) format(*state);
  ::flock(fd.get(),
          LOCK_UN);  // closing does not: the mapping keeps the open file, and its lock, alive
  m.shared = state;
  return nullptr;
}

ProcessLedger& mine() noexcept {
  return machine.shared->processes[static_cast<unsigned>(machine.slot)];
}

bool live_holder(const Holder& h) noexcept {
  if (h.count == 0) return false;
  const ProcessLedger& p = machine.shared->processes[h.slot];
  return p.pid != 0 && p.generation == h.generation;
}

void free_object(SharedObject& o) noexcept {
  if (o.named != 0) {
    char path[320];
    object_path(o.id, path);
    ::unlink(path);
  }
  o.id = 0;
}

// Frees the ledgers of the dead, then the objects nobody is left to hold. Under the lock.
void sweep() noexcept {
  SharedState& s = *machine.shared;
  const std::uint64_t space = own_pid_namespace();
  for (unsigned i = 0; i < s.processes_high; ++i) {
    ProcessLedger& p = s.processes[i];
    std::uint32_t pid_here = 0;
    if (p.pid != 0 && static_cast<int>(i) != machine.slot && !is_present(p, i, space, pid_here)) {
      std::memset(p.used_bytes, 0, sizeof p.used_bytes);
      std::memset(p.hidden_bytes, 0, sizeof p.hidden_bytes);
      std::memset(p.managed_bytes, 0, sizeof p.managed_bytes);
      p.pid = 0;
    }
  }
  for (unsigned i = 0; i < s.objects_high; ++i) {
    SharedObject& o = s.objects[i];
    if (o.id == 0) continue;
    bool held = false;
    for (Holder& h : o.holders) {
      if (h.count != 0 && !live_holder(h)) h.count = 0;
      held = held || h.count != 0;
    }
    if (!held) free_object(o);
  }
}

// What is taken of the unit, with `more` bytes of managed memory. Unified memory takes whole batches of the device,
// which the managed memory of all processes shares.
std::uint64_t sum(unsigned unit, std::uint64_t more = 0) noexcept {
  const SharedState& s = *machine.shared;
  const std::uint64_t batch = machine.profile.managed_batch_bytes;
  std::uint64_t total = 0, managed = more;
  for (unsigned i = 0; i < s.processes_high; ++i) {
    if (s.processes[i].pid == 0) continue;
    total += s.processes[i].used_bytes[unit] + s.processes[i].hidden_bytes[unit];
    managed += s.processes[i].managed_bytes[unit];
  }
  for (unsigned i = 0; i < s.objects_high; ++i) {
    if (s.objects[i].id != 0 && s.objects[i].unit == unit) total += s.objects[i].bytes;
  }
  return total + (managed + batch - 1) / batch * batch;
}

bool fits(unsigned unit, std::uint64_t bytes, Part part = Part::kShown) noexcept {
  const std::uint64_t total = machine.profile.unit_bytes();
  if (part == Part::kManaged) return bytes <= total && sum(unit, bytes) <= total;
  const std::uint64_t used = sum(unit);
  return bytes <= total && used <= total - bytes;
}

std::uint64_t* part_of(ProcessLedger& p, Part part) noexcept {
  if (part == Part::kShown) return p.used_bytes;
  return part == Part::kHidden ? p.hidden_bytes : p.managed_bytes;
}

SharedObject* object(std::uint64_t id) noexcept {
  SharedState& s = *machine.shared;
  for (unsigned i = 0; id != 0 && i < s.objects_high; ++i) {
    if (s.objects[i].id == id) return &s.objects[i];
  }
  return nullptr;
}

Holder* my_hold(SharedObject& o) noexcept {
  for (Holder& h : o.holders) {
    if (h.count != 0 && h.slot == static_cast<unsigned>(machine.slot) &&
        h.generation == machine.generation) {
      return &h;
    }
  }
  return nullptr;
}

SharedObject* free_entry() noexcept {
  SharedState& s = *machine.shared;
  for (unsigned i = 0; i < kMaxObjects; ++i) {
    if (s.objects[i].id != 0) continue;
    if (i >= s.objects_high) s.objects_high = i + 1;
    return &s.objects[i];
  }
  return nullptr;
}

}  // namespace

StateLock::StateLock() noexcept {
  if (pthread_mutex_lock(&machine.shared->mutex) == EOWNERDEAD) {
    pthread_mutex_consistent(&machine.shared->mutex);
  }
}
StateLock::~StateLock() { pthread_mutex_unlock(&machine.shared->mutex); }

const char* open_machine() noexcept {
  pthread_mutex_lock(&open_mutex);
  const char* wrong = nullptr;
  if (machine.shared == nullptr) {
    machine.profile = Profile{};
    wrong = load_profile(std::getenv("BULKHEAD_SIM"), machine.profile);
    if (wrong == nullptr && !make_directory(machine.directory))
      wrong = "no directory for the state";
    if (wrong == nullptr) wrong = map_state(machine);
  }
  pthread_mutex_unlock(&open_mutex);
  return wrong;
}

const char* say_what_is_wrong() noexcept {
  static bool said = false;  // under open_mutex
  const char* const wrong = open_machine();
  if (wrong == nullptr) return nullptr;
  pthread_mutex_lock(&open_mutex);
  if (!said) std::fprintf(stderr, "bulkhead simulator: %s\n", wrong);
  said = true;
  pthread_mutex_unlock(&open_mutex);
  return wrong;
}

bool join_machine() noexcept {
  const StateLock lock;
  if (machine.slot >= 0) return true;
  sweep();
  SharedState& s = *machine.shared;
  for (unsigned i = 0; i < kMaxProcesses; ++i) {
    ProcessLedger& p = s.processes[i];
    if (p.pid != 0) continue;
    std::memset(static_cast<void*>(&p), 0, sizeof p);
    p.generation = machine.generation = s.next_generation++;
    const auto pid = static_cast<std::uint32_t>(::getpid());
    p.start_ticks = start_ticks_of(pid);
    p.pid_namespace = own_pid_namespace();
    hold_presence(i);
    const UniqueFd comm{::open("/proc/self/comm", O_RDONLY | O_CLOEXEC)};
    if (comm.ok() && ::read(comm.get(), p.name, sizeof p.name - 1) <= 0) p.name[0] = 0;
    if (i >= s.processes_high) s.processes_high = i + 1;
    machine.slot = static_cast<int>(i);
    p.pid = pid;
    return true;
  }
  return false;
}

void forget_machine() noexcept {
  machine.slot = -1;
  machine.generation = 0;
}

bool take(unsigned unit, std::uint64_t bytes, Part part) noexcept {
  if (machine.slot < 0) return false;
  const StateLock lock;
  if (!fits(unit, bytes, part)) {
    sweep();
    if (!fits(unit, bytes, part)) return false;
  }
  part_of(mine(), part)[unit] += bytes;
  return true;
}

void give(unsigned unit, std::uint64_t bytes, Part part) noexcept {
  if (machine.slot < 0) return;
  const StateLock lock;
  part_of(mine(), part)[unit] -= bytes;
}

std::uint64_t used_on(unsigned unit) noexcept {
  const StateLock lock;
  sweep();
  return sum(unit);
}

void add_busy(unsigned unit, std::uint64_t ns) noexcept {
  if (machine.slot >= 0) mine().busy_ns[unit] += ns;  // own ledger; a statistic
}

void count_context(unsigned unit, int delta) noexcept {
  if (machine.slot < 0) return;
  const StateLock lock;
  mine().contexts[unit] += static_cast<std::uint32_t>(delta);
}

std::uint64_t create_object(unsigned unit, std::uint64_t bytes, bool named, bool from_ledger,
                            std::uint64_t token) noexcept {
  if (machine.slot < 0) return 0;
  const StateLock lock;
  if (!from_ledger && !fits(unit, bytes)) {
    sweep();
    if (!fits(unit, bytes)) return 0;
  }
  SharedObject* o = free_entry();
  if (o == nullptr) return 0;
  std::memset(static_cast<void*>(o), 0, sizeof *o);
  o->bytes = bytes;
  o->unit = unit;
  o->named = named ? 1 : 0;
  o->token = token;
  o->holders[0] = {static_cast<std::uint32_t>(machine.slot), machine.generation, 1};
  o->maker_slot = o->holders[0].slot;
  o->maker_generation = machine.generation;
  if (from_ledger) mine().used_bytes[unit] -= bytes;
  o->id = machine.shared->next_object++;
  return o->id;
}

void bind_object(std::uint64_t id, int fd) noexcept {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return;
  const StateLock lock;
  if (SharedObject* o = object(id)) {
    o->inode = st.st_ino;
    o->device_number = st.st_dev;
  }
}

bool resize_object(std::uint64_t id, std::uint64_t bytes) noexcept {
  const StateLock lock;
  SharedObject* o = object(id);
  if (o == nullptr) return false;
  if (bytes > o->bytes && !fits(o->unit, bytes - o->bytes)) {
    sweep();
    if (!fits(o->unit, bytes - o->bytes)) return false;
  }
  o->bytes = bytes;
  return true;
}

bool find_object(int fd, SharedObject& copy) noexcept {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return false;
  const StateLock lock;
  const SharedState& s = *machine.shared;
  for (unsigned i = 0; i < s.objects_high; ++i) {
    const SharedObject& o = s.objects[i];
    if (o.id == 0 || o.inode != st.st_ino || o.device_number != st.st_dev) continue;
    copy = o;
    return true;
  }
  return false;
}

bool find_object(std::uint64_t id, SharedObject& copy) noexcept {
  const StateLock lock;
  const SharedObject* o = object(id);
  if (o != nullptr) copy = *o;
  return o != nullptr;
}

bool hold_object(std::uint64_t id) noexcept {
  if (machine.slot < 0) return false;
  const StateLock lock;
  sweep();
  SharedObject* o = object(id);
  if (o == nullptr) return false;
  Holder* h = my_hold(*o);
  for (Holder& free : o->holders) {
    if (h == nullptr && free.count == 0) {
      free = {static_cast<std::uint32_t>(machine.slot), machine.generation, 0};
      h = &free;
    }
  }
  if (h != nullptr) ++h->count;
  return h != nullptr;
}

void drop_object(std::uint64_t id) noexcept {
  const StateLock lock;
  SharedObject* o = object(id);
  Holder* h = o != nullptr ? my_hold(*o) : nullptr;
  if (h == nullptr) return;
  --h->count;
  for (const Holder& other : o->holders) {
    if (other.count != 0) return;
  }
  free_object(*o);
}

void object_path(std::uint64_t id, char (&out)[320]) noexcept {
  std::snprintf(out, sizeof out, "%s/obj-%.30s-%llu", machine.directory, machine.profile.key,
                static_cast<unsigned long long>(id));
}

unsigned process_uses(unsigned unit, ProcessUse* out, unsigned room) noexcept {
  const StateLock lock;
  sweep();
  const SharedState& s = *machine.shared;
  const std::uint64_t space = own_pid_namespace();
  unsigned n = 0;
  for (unsigned i = 0; i < s.processes_high; ++i) {
    const ProcessLedger& p = s.processes[i];
    if (p.pid == 0 || p.contexts[unit] == 0) continue;  // without a context it is not listed
    std::uint32_t pid_here = p.pid;
    if (p.pid_namespace != space && (!is_present(p, i, space, pid_here) || pid_here == 0)) continue;
    std::uint64_t bytes = p.used_bytes[unit];
    for (unsigned k = 0; k < s.objects_high; ++k) {
      const SharedObject& o = s.objects[k];
      if (o.id == 0 || o.unit != unit) continue;
      const Holder* first = nullptr;
      for (const Holder& h : o.holders) {
        if (first == nullptr && h.count != 0) first = &h;
      }
      if (first == nullptr || first->slot != i || first->generation != p.generation) continue;
      const bool maker = o.maker_slot == i && o.maker_generation == p.generation;
      if (o.named != 0 || maker) bytes += o.bytes;
    }
    if (n < room) out[n] = {pid_here, bytes, p.busy_ns[unit], p.start_ticks};
    ++n;
  }
  return n;
}

std::uint64_t start_ticks_of(std::uint32_t pid) noexcept {
  char path[40], text[512];
  std::snprintf(path, sizeof path, "/proc/%u/stat", pid);
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  if (!fd.ok()) return 0;
  const ssize_t n = ::read(fd.get(), text, sizeof text - 1);
  if (n <= 0) return 0;
  text[n] = 0;
  const char* p = std::strrchr(text, ')');  // the name may hold anything, so count from its end
  if (p == nullptr || p[1] == 0 || p[2] == 'Z' || p[2] == 'X') return 0;
  for (int field = 2; field < 22 && p != nullptr; ++field) p = std::strchr(p + 1, ' ');
  return p != nullptr ? std::strtoull(p + 1, nullptr, 10) : 0;
}

}  // namespace bulkhead::sim

#include "hook/slice.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <atomic>
#include <cstring>

#include "hook/private_lock.h"
#include "shm/files.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kGroups = 64;  // further ones keep the driver's slice
constexpr std::uint32_t kChannelGroup = 0xa06c;
constexpr std::uint32_t kSetTimeslice = 0xa06c0103;
constexpr unsigned kFree = 0x29, kControl = 0x2a, kAlloc = 0x2b, kWrapped = 211;

struct Alloc21 {
  std::uint32_t client, parent, object, cls;
  std::uint64_t parameters;
  std::uint32_t bytes, status;
};
struct Alloc64 {
  std::uint32_t client, parent, object, cls;
  std::uint64_t parameters, rights;
  std::uint32_t bytes, flags, status, padding;
};
struct Free {
  std::uint32_t client, parent, object, status;
};
struct Control {
  std::uint32_t client, object, command, flags;
  std::uint64_t parameters;
  std::uint32_t bytes, status;
};
struct Wrapped {
  std::uint32_t command, bytes;
  std::uint64_t pointer;
};
static_assert(sizeof(Alloc21) == 32 && sizeof(Alloc64) == 48 && sizeof(Free) == 16);
static_assert(sizeof(Control) == 32 && sizeof(Wrapped) == 16);

constexpr unsigned long control_request() {
  return 3ul << 30 | sizeof(Control) << 16 | static_cast<unsigned long>('F') << 8 | kControl;
}
static_assert(control_request() == 0xc020462a);

struct Group {
  std::uint32_t client, object;
  std::uint64_t made_ns;
  std::uint64_t file[3];  // st_dev, st_ino, st_rdev
  int fd;
  bool used;
  unsigned times;  // it was set
};
struct Slices {
  PrivateLock lock{};
  Group groups[kGroups]{};
  std::atomic<std::uint32_t> us{0};
};
constinit Slices slices{};

bool file_of(int fd, std::uint64_t (&out)[3]) noexcept {
  struct stat st {};
  if (!shm::stat_fd(fd, st)) return false;
  out[0] = st.st_dev;
  out[1] = st.st_ino;
  out[2] = st.st_rdev;
  return true;
}

bool made(int fd, std::uint32_t client, std::uint32_t object, std::uint64_t now_ns) noexcept {
  Group group{client, object, now_ns, {}, fd, true, 0};
  if (!file_of(fd, group.file)) return false;
  const Held held{slices.lock};
  for (Group& g : slices.groups) {
    if (g.used && !(g.client == client && g.object == object)) continue;
    g = group;
    return true;
  }
  return false;
}

// The client itself goes with all it has.
void freed(std::uint32_t client, std::uint32_t object) noexcept {
  const Held held{slices.lock};
  for (Group& g : slices.groups) {
    if (g.used && g.client == client && (g.object == object || object == client)) g.used = false;
  }
}

template <class T>
T read(const void* argument) noexcept {
  T out;
  std::memcpy(&out, argument, sizeof out);
  return out;
}

bool note(int fd, unsigned number, std::size_t bytes, const void* argument,
          std::uint64_t now_ns) noexcept {
  if (argument == nullptr) return false;
  if (number == kFree && bytes == sizeof(Free)) {
    const auto f = read<Free>(argument);
    if (f.status == 0) freed(f.client, f.object);
    return false;
  }
  if (number != kAlloc) return false;
  if (bytes == sizeof(Alloc64)) {
    const auto a = read<Alloc64>(argument);
    return a.cls == kChannelGroup && a.status == 0 && made(fd, a.client, a.object, now_ns);
  }
  if (bytes == sizeof(Alloc21)) {
    const auto a = read<Alloc21>(argument);
    return a.cls == kChannelGroup && a.status == 0 && made(fd, a.client, a.object, now_ns);
  }
  return false;
}

constexpr std::uint64_t due_ns(unsigned times) noexcept {
  return kSettled_ns * (times == 0 ? 1 : times == 1 ? 3 : 9);
}

// How often it was set now. Whether it acts is the self-test's to say, not its status's.
unsigned set_one(const Group& g, std::uint64_t us, IoctlCall real, unsigned& set) noexcept {
  std::uint64_t file[3];
  if (!file_of(g.fd, file) || std::memcmp(file, g.file, sizeof file) != 0) return kSettings;
  Control c{g.client,  g.object, kSetTimeslice, 0, reinterpret_cast<std::uintptr_t>(&us),
            sizeof us, 0};
  if (real(g.fd, control_request(), &c) != 0 || c.status != 0) return kSettings;
  ++set;
  return g.times + 1;
}

}  // namespace

void want_slices(std::uint32_t us) noexcept {
  if (us != 0 && us < kLeastSlice_us) us = kLeastSlice_us;
  slices.us.store(us < kMostSlice_us ? us : kMostSlice_us, kRelaxed);  // one number
}
void slices_by_environment() noexcept {
  if (const char* const us = ::getenv("BULKHEAD_SLICE_US"); us != nullptr && us[0] != '\0')
    want_slices(static_cast<std::uint32_t>(::strtoul(us, nullptr, 10)));
}
std::uint32_t slices_wanted() noexcept { return slices.us.load(kRelaxed); }  // as above

bool note_ioctl(int fd, unsigned long request, const void* argument,
                std::uint64_t now_ns) noexcept {
  if ((request >> 8 & 0xff) != 'F' || argument == nullptr) return false;
  const auto number = static_cast<unsigned>(request & 0xff);
  const auto bytes = static_cast<std::size_t>(request >> 16 & 0x3fff);
  if (number != kWrapped) return note(fd, number, bytes, argument, now_ns);
  if (bytes != sizeof(Wrapped)) return false;
  const auto w = read<Wrapped>(argument);
  const auto* const inner = reinterpret_cast<const void*>(static_cast<std::uintptr_t>(w.pointer));
  return note(fd, w.command, w.bytes, inner, now_ns);
}

unsigned set_slices(IoctlCall real, std::uint64_t now_ns, unsigned* set) noexcept {
  const std::uint32_t us = slices_wanted();
  *set = 0;
  if (us == 0) return 0;
  const Undisturbed keep;
  unsigned waiting = 0;
  const Held held{slices.lock};  // so that no group is freed under our feet by a call that we saw
  for (Group& g : slices.groups) {
    if (!g.used || g.times == kSettings) continue;
    if (now_ns - g.made_ns >= due_ns(g.times)) g.times = set_one(g, us, real, *set);
    if (g.times != kSettings) ++waiting;
  }
  return waiting;
}

void forget_slices() noexcept {
  const Held held{slices.lock};
  for (Group& g : slices.groups) g.used = false;
}

}  // namespace bulkhead::hook

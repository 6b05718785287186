#include "hook/settings.h"

#include <sys/auxv.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "hook/private_lock.h"
#include "hook/slice.h"
#include "policy/limit.h"
#include "policy/stream_sms.h"

namespace bulkhead::hook {
namespace {

constinit Settings the_settings{};
constinit std::atomic<bool> is_read{false};
constinit PrivateLock reading{};

const char* value_of(const char* name) noexcept {
  const char* v = std::getenv(name);
  return v != nullptr && v[0] != 0 ? v : nullptr;
}

// BASE_<i> for each visible device. True if any was there.
bool read_indexed(Settings& s, const char* base) noexcept {
  bool any = false;
  for (int i = 0; i < kMaxDevices; ++i) {
    char name[40];
    std::size_t at = std::strlen(base);
    std::memcpy(name, base, at);
    name[at++] = '_';
    if (i >= 10) name[at++] = static_cast<char>('0' + i / 10);
    name[at++] = static_cast<char>('0' + i % 10);
    name[at] = 0;
    const char* text = value_of(name);
    if (text == nullptr) continue;
    any = true;
    s.has_index[i] = policy::parse_size(text, s.grammar, &s.by_index[i]);
    if (!s.has_index[i]) s.malformed = true;
  }
  return any;
}

bool read_limits(Settings& s, const char* base, policy::Grammar grammar) noexcept {
  s.grammar = grammar;
  bool any = read_indexed(s, base);
  if (const char* text = value_of(base)) {
    any = true;
    if (grammar == policy::Grammar::kOurs) {
      if (!policy::parse_memory_spec(text, grammar, &s.spec)) s.malformed = true;
    } else {
      s.spec.has_every = policy::parse_size(text, grammar, &s.spec.every);
      if (!s.spec.has_every) s.malformed = true;
    }
  }
  return any;
}

void read_all(Settings& s) noexcept {
  if (::getauxval(AT_SECURE) != 0) {
    s.secure = true;
    return;
  }
  slices_by_environment();  // of any process: the self-test's has no tenant
  const char* tenant = value_of("BULKHEAD_TENANT");
  s.has_limits = read_limits(s, "BULKHEAD_MEMORY", policy::Grammar::kOurs);
  // HAMi's variables count only if none of ours is set
  if (!s.has_limits && tenant == nullptr) {
    s.has_limits = read_limits(s, "CUDA_DEVICE_MEMORY_LIMIT", policy::Grammar::kHami);
  }
  s.wanted = s.has_limits || tenant != nullptr;
  if (tenant == nullptr) tenant = "default";
  if (std::strlen(tenant) < sizeof s.tenant) {
    std::memcpy(s.tenant, tenant, std::strlen(tenant) + 1);
  } else {
    s.malformed = true;
  }
  if (const char* streams = value_of("BULKHEAD_STREAM_COMPUTE"); streams != nullptr && s.wanted)
    s.malformed = s.malformed || !policy::compute::parse_streams(streams, s.streams);
  if (const char* sms = value_of("BULKHEAD_STREAM_SMS"); sms != nullptr && s.wanted)
    s.malformed = s.malformed || !policy::parse_stream_sms(sms, &s.stream_sms_x100);
  if (const char* fault = value_of("BULKHEAD_ON_FAULT")) s.open_fault = !std::strcmp(fault, "open");
  if (const char* audit = value_of("BULKHEAD_AUDIT")) {
    s.audit = std::strcmp(audit, "enforce") == 0 ? 2 : std::strcmp(audit, "observe") == 0 ? 1 : 0;
    if (s.audit == 0 && std::strcmp(audit, "off") != 0) s.malformed = true;
  }
  if (const char* log = value_of("BULKHEAD_LOG")) s.log_stderr = std::strcmp(log, "stderr") == 0;
}

void put_hex(char*& to, unsigned char byte) noexcept {
  constexpr const char* kDigits = "0123456789abcdef";
  *to++ = kDigits[byte >> 4];
  *to++ = kDigits[byte & 15];
}

int hex(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

}  // namespace

const Settings& settings() noexcept {
  // acquire pairs with the release below
  if (is_read.load(std::memory_order_acquire)) [[likely]]
    return the_settings;
  const Held held{reading};
  if (!is_read.load(std::memory_order_relaxed)) {  // under the lock
    read_all(the_settings);
    is_read.store(true, std::memory_order_release);  // pairs with the acquire above
  }
  return the_settings;
}

const policy::Size* size_asked(const Settings& s, unsigned ordinal,
                               const char* uuid_text) noexcept {
  if (ordinal < kMaxDevices && s.has_index[ordinal]) return &s.by_index[ordinal];
  // the driver does not tell a MIG instance's UUID from a GPU's, people write MIG-...
  char mig[kUuidText] = "MIG-";
  std::memcpy(mig + 4, uuid_text + 4, sizeof mig - 4);
  for (unsigned i = 0; i < s.spec.count; ++i) {
    const policy::MemorySpec::Entry& e = s.spec.entries[i];
    if (e.gpu[0] == 'M' && policy::gpu_matches(e.gpu, ordinal, mig)) return &e.size;
  }
  return policy::size_for(s.spec, ordinal, uuid_text);
}

std::uint64_t size_bytes(const policy::Size& size, std::uint64_t total_bytes) noexcept {
  if (!size.is_percent && size.bytes == 0) return total_bytes;
  return policy::limit_of(size, total_bytes);
}

void uuid_text(const CUuuid& uuid, char (&out)[kUuidText]) noexcept {
  char* to = out;
  std::memcpy(to, "GPU-", 4);
  to += 4;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *to++ = '-';
    put_hex(to, static_cast<unsigned char>(uuid.bytes[i]));
  }
  *to = 0;
}

bool parse_uuid(const char* text, CUuuid& out) noexcept {
  if (std::strncmp(text, "GPU-", 4) != 0 && std::strncmp(text, "MIG-", 4) != 0) return false;
  text += 4;
  for (int i = 0; i < 16; ++i) {
    if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-') return false;
    const int high = hex(text[0]);
    const int low = high < 0 ? -1 : hex(text[1]);
    if (low < 0) return false;
    out.bytes[i] = static_cast<char>(high << 4 | low);
    text += 2;
  }
  return *text == 0;
}

}  // namespace bulkhead::hook

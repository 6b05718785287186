#include "sim/identity.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "sim/state.h"

namespace bulkhead::sim {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): spreads a small number over 64 bits.
std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void fill(std::uint64_t seed, unsigned char (&out)[16]) noexcept {
  const std::uint64_t words[2] = {mix(seed), mix(seed + 1000)};
  std::memcpy(out, words, sizeof out);
}

// The unit an entry names, or -1: an index, a UUID or the beginning of one.
int unit_of(std::string_view entry) noexcept {
  const Profile& p = machine.profile;
  const bool mig = p.mig_instances != 0;
  if (entry.starts_with("GPU-") || entry.starts_with("MIG-")) {
    int found = -1;
    for (unsigned u = 0; u < p.units(); ++u) {
      unsigned char uuid[16];
      char text[48];
      const auto per_gpu = static_cast<unsigned>(mig ? p.mig_instances : 1);
      if (entry[0] == 'M') {
        if (!mig) return -1;
        mig_uuid(u / per_gpu, u % per_gpu, uuid);
      } else {
        gpu_uuid(u / per_gpu, uuid);
      }
      uuid_text(uuid, entry[0] == 'M', text);
      if (!std::string_view{text}.starts_with(entry)) continue;
      if (found >= 0 && entry[0] == 'M') return -1;  // ambiguous
      if (found < 0)
        found = static_cast<int>(u);  // a GPU with MIG on: its first instance
      else if (found / static_cast<int>(per_gpu) != static_cast<int>(u / per_gpu))
        return -1;
    }
    return found;
  }
  if (entry.empty() || entry.size() > 4) return -1;
  unsigned index = 0;
  for (const char c : entry) {
    if (c < '0' || c > '9') return -1;
    index = index * 10 + static_cast<unsigned>(c - '0');
  }
  if (index >= p.count) return -1;
  return static_cast<int>(mig ? index * p.mig_instances : index);
}

std::string_view trim(std::string_view s) noexcept {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

}  // namespace

void gpu_uuid(unsigned gpu, unsigned char (&out)[16]) noexcept { fill(gpu + 1, out); }
void mig_uuid(unsigned gpu, unsigned instance, unsigned char (&out)[16]) noexcept {
  fill(100 + gpu * 16 + instance, out);
}

void uuid_text(const unsigned char (&uuid)[16], bool mig, char (&out)[48]) noexcept {
  int n = std::snprintf(out, sizeof out, "%s", mig ? "MIG-" : "GPU-");
  for (unsigned i = 0; i < 16; ++i) {
    const char* dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
    n += std::snprintf(out + n, sizeof out - static_cast<unsigned>(n), "%s%02x", dash, uuid[i]);
  }
}

// The list ends at the first entry that names nothing; an entry named twice leaves no device at all.
unsigned visible_units(const char* text, unsigned* out, unsigned room) noexcept {
  const Profile& p = machine.profile;
  const bool mig = p.mig_instances != 0;
  unsigned n = 0;
  if (text == nullptr) {
    const unsigned all = mig ? 1 : p.units();
    for (; n < all && n < room; ++n) out[n] = n;
    return n;
  }
  std::string_view rest{text};
  while (!rest.empty() && n < room) {
    const std::size_t end = rest.find(',');
    const int unit = unit_of(trim(rest.substr(0, end)));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (unit < 0) break;
    for (unsigned i = 0; i < n; ++i) {
      if (out[i] == static_cast<unsigned>(unit)) return 0;
    }
    out[n++] = static_cast<unsigned>(unit);
    if (mig) break;
  }
  return n;
}

}  // namespace bulkhead::sim

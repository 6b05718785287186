#include "sim/mps.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sim/state.h"

namespace bulkhead::sim {

unsigned mps_share(const char* text, unsigned sms, unsigned unit, unsigned least) noexcept {
  if (text == nullptr || *text == 0) return sms;
  std::uint64_t thousandths = 0, scale = 1000;  // of a percent
  bool point = false;
  for (const char* c = text; *c != 0; ++c) {
    if (*c == '.' && !point) {
      point = true;
      continue;
    }
    if (*c < '0' || *c > '9' || thousandths > 1'000'000) return sms;
    const auto digit = static_cast<std::uint64_t>(*c - '0');
    if (point) {
      scale /= 10;
      thousandths += digit * scale;
    } else {
      thousandths = thousandths * 10 + digit * 1000;
    }
  }
  if (thousandths == 0 || thousandths > 100'000) return sms;
  const std::uint64_t granted = sms * thousandths / 100'000 / unit * unit;
  if (least > sms) least = sms;
  return granted < least ? least : static_cast<unsigned>(granted);
}

namespace {

// False: the server has no static partitions.
bool read_partitions(const char* path, MpsClient& m) noexcept {
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return false;
  const char* const mine = std::getenv("CUDA_MPS_SM_PARTITION");
  m.refused = true;
  char name[256];
  unsigned sms = 0;
  while (std::fscanf(file, "%255s %u", name, &sms) == 2) {
    if (mine == nullptr || std::strcmp(mine, name) != 0 || sms == 0 || sms > m.sms) continue;
    m.sms = sms;
    m.refused = false;
    break;
  }
  std::fclose(file);
  return true;
}

}  // namespace

MpsClient mps_client() noexcept {
  MpsClient m;
  m.sms = static_cast<unsigned>(machine.profile.unit_sms());
  const char* directory = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  if (directory == nullptr || *directory == 0) return m;
  char path[4096];
  const int n = std::snprintf(path, sizeof path, "%s/bulkhead-sim-mps", directory);
  struct stat st {};
  if (n >= static_cast<int>(sizeof path) || ::stat(path, &st) != 0) return m;
  m.server = (static_cast<std::uint64_t>(st.st_dev) << 40) ^ st.st_ino;
  if (m.server == 0) m.server = 1;
  const unsigned all = m.sms;
  if (std::snprintf(path, sizeof path, "%s/bulkhead-sim-partitions", directory) <
          static_cast<int>(sizeof path) &&
      read_partitions(path, m)) {
    m.limited = m.sms < all;
    return m;
  }
  m.sms = mps_share(std::getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), all,
                    static_cast<unsigned>(machine.profile.mps_sm_unit),
                    static_cast<unsigned>(machine.profile.mps_sm_least));
  m.limited = m.sms < all;
  return m;
}

}  // namespace bulkhead::sim

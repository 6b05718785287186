// Any message: no crash, and what is accepted can be used as its kind without a further look.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "wire/parse.h"

namespace {
using namespace bulkhead::wire;

void require(bool held) {
  if (!held) std::abort();
}

void use_request(const unsigned char* at, std::size_t bytes) {
  Header h;
  std::memcpy(&h, at, sizeof h);
  require(h.bytes == bytes && (h.kind & kReplyBit) == 0);
  if (static_cast<Kind>(h.kind) != Kind::kRegister) return;
  require(bytes == sizeof(RegisterRequest));
  const auto& r = *reinterpret_cast<const RegisterRequest*>(at);
  require(r.record.device_count >= 1 && r.record.device_count <= kMaxDevices);
  require(std::strlen(r.record.name) < kNameBytes && std::strlen(r.record.match_cgroup) < 256);
  for (const auto& name : r.record.share_with) require(std::strchr(name, '/') == nullptr);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint64_t> aligned(size / 8 + 1);
  std::memcpy(aligned.data(), data, size);
  const auto* at = reinterpret_cast<const unsigned char*>(aligned.data());
  if (check_request(at, size).ok()) use_request(at, size);
  for (const Kind kind :
       {Kind::kHello, Kind::kRegister, Kind::kList, Kind::kEvents, Kind::kUsage}) {
    (void)check_reply(at, size, kind, 1);
  }
  // The same bytes behind a good header, so that the fields are reached too.
  if (size < sizeof(Header) || size > kMaxMessage) return 0;
  Header h{kMagic, kProtocol, 0, static_cast<std::uint32_t>(size), 1, 0, 0, 0};
  for (std::uint16_t kind = 1; kind <= 10; ++kind) {
    h.kind = kind;
    std::memcpy(aligned.data(), &h, sizeof h);
    if (check_request(at, size).ok()) use_request(at, size);
    h.kind = kind | kReplyBit;
    std::memcpy(aligned.data(), &h, sizeof h);
    (void)check_reply(at, size, static_cast<Kind>(kind), 1);
  }
  return 0;
}

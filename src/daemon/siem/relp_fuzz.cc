// What a receiver may answer: anything.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "daemon/siem/relp.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using bulkhead::daemon::siem::RelpClient;
  RelpClient client;
  (void)client.open();
  if (!client.feed("1 rsp 6 200 OK\n")) __builtin_trap();
  for (int i = 0; i < 8; ++i) (void)client.syslog("x");
  const std::string_view all{reinterpret_cast<const char*>(data), size};
  // In two parts, at a place the input chooses: the same as at once.
  const std::size_t cut = size == 0 ? 0 : data[0] % (size + 1);
  RelpClient whole = client;
  const bool first = client.feed(all.substr(0, cut)) && client.feed(all.substr(cut));
  const bool second = whole.feed(all);
  if (first != second || (first && client.confirmed() != whole.confirmed()) ||
      client.confirmed() > 8)
    __builtin_trap();
  return 0;
}

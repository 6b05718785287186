// Any bytes as a request, and as a name in metrics.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "daemon/sight/http.h"
#include "daemon/sight/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::daemon;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  HttpRequest request;
  int status = 0;
  const HttpParse parsed = parse_request(text, request, status);
  if ((parsed == HttpParse::kRefuse) != (status != 0)) std::abort();
  if (parsed == HttpParse::kDone && (request.path.empty() || request.path[0] != '/')) std::abort();
  (void)host_is_ours(request.host, 9478);
  const std::string label = label_text(text);
  if (clean_text(clean_text(text)) != clean_text(text)) std::abort();
  if (label.find('\n') != std::string::npos) std::abort();
  return 0;
}

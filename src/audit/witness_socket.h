// Inside of the witness: HTTP over a Unix socket, no more of it than one POST needs.
#pragma once
#include <string>

#include "audit/witness.h"

namespace bulkhead::audit {

// "" or why there is no answer.
[[nodiscard]] std::string post_to_witness(const std::string& socket_path, const std::string& body,
                                          WitnessAnswer& answer, const Patience& patience);
// The body of a whole request or answer; false: `need_more`, or not HTTP.
struct HttpMessage {
  std::string first_line;
  std::string body;
};
enum class HttpState : std::uint8_t { kWhole, kNeedMore, kBad };
[[nodiscard]] HttpState parse_http(std::string_view text, HttpMessage& out);

}  // namespace bulkhead::audit

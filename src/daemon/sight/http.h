// HTTP/1.1 as far as the child speaks it (RFC 9112): one GET or HEAD without a body a connection, then closed. Pure
// text in, text out; adr/0004 says why it is our own.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace bulkhead::daemon {

inline constexpr std::size_t kMaxRequestBytes = 8192;

struct HttpRequest {
  bool head = false;      // HEAD: everything but the body
  std::string_view path;  // without the query; not decoded, so a '%' never matches a path of ours
  std::string_view host;  // "" = none was sent
  std::string_view accept;
  std::string_view bearer;  // of Authorization: Bearer
};

enum class HttpParse { kMore, kDone, kRefuse };
// `text` is all that came so far; `out` looks into it. kRefuse: `status` is the answer (400, 405, 413, 417, 431, 501, 505), close after it.
[[nodiscard]] HttpParse parse_request(std::string_view text, HttpRequest& out, int& status);

// "127.0.0.1:PORT", "localhost:PORT", "[::1]:PORT" (port may be missing only if it is 80): anything else came through
// a name that somebody else resolves (DNS rebinding).
[[nodiscard]] bool host_is_ours(std::string_view host, unsigned port);

struct HttpAnswer {
  int status = 200;
  std::string_view type = "text/plain; charset=utf-8";
  std::string_view body;
  bool page = false;  // the console's: with its content security policy
};
// Status line and headers, blank line included.
[[nodiscard]] std::string answer_head(const HttpAnswer& answer);
[[nodiscard]] const char* status_text(int status);

}  // namespace bulkhead::daemon

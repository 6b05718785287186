#include "daemon/sight/http.h"

#include <fmt/format.h>

namespace bulkhead::daemon {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool same_name(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

// RFC 9110 5.6.2
bool is_token(std::string_view s) {
  constexpr std::string_view kOther = "!#$%&'*+-.^_`|~";
  for (const char c : s) {
    const bool word = (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9');
    if (!word && kOther.find(c) == std::string_view::npos) return false;
  }
  return !s.empty();
}

int refuse_line(std::string_view line, HttpRequest& out) {
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return 400;
  const std::string_view method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method)) return 400;
  if (version != "HTTP/1.1" && version != "HTTP/1.0")
    return version.substr(0, 5) == "HTTP/" ? 505 : 400;
  if (method != "GET" && method != "HEAD") return 405;
  if (target.empty() || target[0] != '/') return 400;  // neither proxy nor CONNECT
  for (const char c : target) {
    if (c <= ' ' || c > '~') return 400;
  }
  out.head = method == "HEAD";
  out.path = target.substr(0, target.find('?'));
  return 0;
}

struct Seen {
  bool host = false;
};

int refuse_header(std::string_view line, HttpRequest& out, Seen& seen) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return 400;
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = trimmed(line.substr(colon + 1));
  for (const char c : value) {
    if ((c < ' ' && c != '\t') || c == '\x7f') return 400;
  }
  if (same_name(name, "host")) {
    if (seen.host) return 400;  // two of them: somebody is confused, and it must not be us
    seen.host = true;
    out.host = value;
  }
  if (same_name(name, "accept")) out.accept = value;
  if (same_name(name, "transfer-encoding")) return 501;
  if (same_name(name, "content-length") && value != "0") return 413;
  if (same_name(name, "expect")) return 417;
  if (same_name(name, "authorization")) {
    constexpr std::string_view kScheme = "bearer ";
    if (value.size() > kScheme.size() && same_name(value.substr(0, kScheme.size()), kScheme)) {
      out.bearer = trimmed(value.substr(kScheme.size()));
    }
  }
  return 0;
}

}  // namespace

HttpParse parse_request(std::string_view text, HttpRequest& out, int& status) {
  out = {};
  status = 0;
  const std::size_t end = text.find("\r\n\r\n");
  if (end == std::string_view::npos) {
    if (text.size() < kMaxRequestBytes) return HttpParse::kMore;
    status = 431;
    return HttpParse::kRefuse;
  }
  std::string_view rest = text.substr(0, end + 2);
  Seen seen;
  bool first = true;
  while (!rest.empty() && status == 0) {
    const std::size_t eol = rest.find("\r\n");
    const std::string_view line = rest.substr(0, eol);
    status = first ? refuse_line(line, out) : refuse_header(line, out, seen);
    first = false;
    rest.remove_prefix(eol + 2);
  }
  return status == 0 ? HttpParse::kDone : HttpParse::kRefuse;
}

bool host_is_ours(std::string_view host, unsigned port) {
  const std::string suffix = fmt::format(":{}", port);
  for (const std::string_view name : {"127.0.0.1", "localhost", "[::1]"}) {
    if (same_name(host, std::string{name} + suffix)) return true;
    if (port == 80 && same_name(host, name)) return true;
  }
  return false;
}

const char* status_text(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 421:
      return "Misdirected Request";
    case 431:
      return "Request Header Fields Too Large";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Error";
  }
}

std::string answer_head(const HttpAnswer& answer) {
  std::string out = fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n"
      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
      answer.status, status_text(answer.status), answer.type, answer.body.size());
  if (answer.status == 405) out += "Allow: GET, HEAD\r\n";
  if (answer.status == 401) out += "WWW-Authenticate: Bearer realm=\"bulkhead\"\r\n";
  if (answer.page) {
    out +=
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n"
        "Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n";
  }
  return out + "\r\n";
}

}  // namespace bulkhead::daemon

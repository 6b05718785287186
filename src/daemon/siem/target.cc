#include "daemon/siem/target.h"

#include <charconv>

namespace bulkhead::daemon::siem {

Outcome<Target> parse_target(const std::string& url) {
  using Out = Outcome<Target>;
  const auto wrong = [&url](const char* what) {
    return Out::because("'" + url + "' " + what +
                        "; write it like \"relp+tls://siem.example:2514\"");
  };
  Target out;
  std::string_view rest = url;
  const std::size_t colon = rest.find("://");
  const std::string_view scheme = rest.substr(0, colon);
  if (colon == rest.npos ||
      (scheme != "tcp" && scheme != "tls" && scheme != "relp" && scheme != "relp+tls"))
    return wrong("begins with none of tcp://, tls://, relp://, relp+tls://");
  out.relp = scheme.starts_with("relp");
  out.tls = scheme.ends_with("tls");
  out.port = out.relp ? 2514 : out.tls ? 6514 : 601;
  rest.remove_prefix(colon + 3);
  std::string_view port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == rest.npos) return wrong("lacks a ]");
    out.host = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
    if (!rest.empty() && rest.front() != ':') return wrong("has text behind ]");
    if (!rest.empty()) port = rest.substr(1);
    if (!rest.empty() && port.empty()) return wrong("has no port behind the colon");
  } else {
    const std::size_t at = rest.find(':');
    out.host = rest.substr(0, at);
    if (at != rest.npos) {
      port = rest.substr(at + 1);
      if (port.empty()) return wrong("has no port behind the colon");
    }
  }
  if (out.host.empty() || out.host.size() > 253) return wrong("names no host");
  for (const char c : out.host) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '-' || c == '_' || c == ':' || c == '%';
    if (!good) return wrong("names a host that none can have");
  }
  if (!port.empty()) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (error != std::errc{} || end != port.data() + port.size() || number == 0 || number > 65535)
      return wrong("has no port from 1 to 65535");
    out.port = static_cast<std::uint16_t>(number);
  }
  return out;
}

}  // namespace bulkhead::daemon::siem

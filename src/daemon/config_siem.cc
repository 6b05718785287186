#include "daemon/config_siem.h"

#include "policy/size.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kMostOverlap = 64u << 20;

void path(ConfigTable& t, const char* key, std::string& out) {
  const unsigned at = t.text(key, out);
  if (at != 0 && !out.starts_with('/')) t.blame(at, key, "not a whole path; begin it with /");
}

}  // namespace

void read_siem(ConfigTable t, Config& c) {
  siem::Settings& s = c.siem;
  const unsigned at_url = t.text("url", s.url);
  path(t, "ca", s.ca);
  path(t, "cert", s.cert);
  path(t, "key", s.key);
  t.text("name", s.name);
  std::int64_t number = 0;
  if (t.number("enterprise", 1, 0xffff'ffff, number) != 0)
    s.enterprise = static_cast<std::uint32_t>(number);
  std::string text;
  policy::Size size{};
  if (const unsigned at = t.text("overlap", text); at != 0) {
    if (!policy::parse_size(text.c_str(), policy::Grammar::kOurs, &size) || size.is_percent ||
        size.bytes > kMostOverlap)
      t.blame(at, "overlap", "'" + text + "' is not a size up to 64MiB, like \"8MiB\"");
    else
      s.overlap_bytes = size.bytes;
  }
  t.finish();
  if (!t.present()) return;
  if (at_url == 0) {
    t.blame(t.line(), "url", "missing; write it like \"relp+tls://siem.example:2514\"");
    return;
  }
  auto target = siem::parse_target(s.url);
  if (!target.ok()) {
    t.blame(at_url, "url", target.problem);
  } else if (target->tls && s.ca.empty()) {
    t.blame(at_url, "url",
            "a receiver behind tls is verified: name its authority with ca = \"/...\"");
  } else if (s.cert.empty() != s.key.empty()) {
    t.blame(t.line(), s.cert.empty() ? "cert" : "key", "missing; a client certificate is both");
  }
  if (!c.audit)
    t.blame(at_url, "url", "there is no [audit]: the log is what is sent; add that section");
}

}  // namespace bulkhead::daemon

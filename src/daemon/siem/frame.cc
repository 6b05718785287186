#include "daemon/siem/frame.h"

#include <cstdio>
#include <ctime>

namespace bulkhead::daemon::siem {
namespace {

constexpr int kFacility = 13;  // log audit

// RFC 5424 6.2.3: at most six digits of a second.
std::string timestamp(std::uint64_t utc_ns) {
  const auto seconds = static_cast<std::time_t>(utc_ns / 1'000'000'000);
  std::tm t{};
  if (utc_ns / 1'000'000'000 > 253'402'300'799 || ::gmtime_r(&seconds, &t) == nullptr) return "-";
  char text[48];
  const std::size_t n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t);
  std::snprintf(text + n, sizeof text - n, ".%06uZ",
                static_cast<unsigned>(utc_ns % 1'000'000'000 / 1000));
  return text;
}

// RFC 5424 6.3.3: '"', '\' and ']' are escaped. The origin's name may hold anything.
std::string param_value(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == ']') out += '\\';
    out += c >= 0x20 && c < 0x7f ? c : '?';
  }
  return out;
}

}  // namespace

std::string header_host(const std::string& name) {
  std::string out;
  for (const char c : name.substr(0, 255)) out += c > 0x20 && c < 0x7f ? c : '?';
  return out.empty() ? "-" : out;
}

std::string syslog_message(const Event& e, const std::string& host, std::uint32_t enterprise) {
  return "<" + std::to_string(kFacility * 8 + e.severity) + ">1 " + timestamp(e.utc_ns) + " " +
         host + " bulkheadd - " + e.msgid + " [bulkhead@" + std::to_string(enterprise) + " uid=\"" +
         param_value(e.uid) + "\"] " + e.json;
}

std::string octet_counted(const std::string& message) {
  return std::to_string(message.size()) + " " + message;
}

}  // namespace bulkhead::daemon::siem

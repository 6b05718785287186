#include "daemon/siem/relp.h"

#include <charconv>

namespace bulkhead::daemon::siem {
namespace {

constexpr std::uint32_t kLastNumber = 999'999'999;
constexpr std::size_t kMostAnswer = 16u << 10;  // rsyslog's are below 200 bytes

// A decimal number that `end` follows.
bool number(std::string_view& text, char end, std::uint32_t most, std::uint32_t& out) {
  const auto [to, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc{} || to == text.data() + text.size() || *to != end || out > most)
    return false;
  text.remove_prefix(static_cast<std::size_t>(to - text.data()) + 1);
  return true;
}

std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out;
}

}  // namespace

std::string RelpClient::frame(const char* command, std::string_view data) {
  std::string out = std::to_string(next_) + " " + command + " " + std::to_string(data.size());
  if (!data.empty()) out += " ";
  out.append(data) += "\n";
  next_ = next_ == kLastNumber ? 1 : next_ + 1;
  return out;
}

std::string RelpClient::open() {
  open_number_ = next_;
  return frame("open", "relp_version=1\nrelp_software=bulkhead\ncommands=syslog");
}

std::string RelpClient::syslog(const std::string& message) {
  waiting_.push_back({next_, false});
  return frame("syslog", message);
}

std::string RelpClient::close() { return frame("close", ""); }

int RelpClient::parse(Answer& out, std::size_t& used) {
  constexpr std::size_t kMostHeader = 9 + 1 + 32 + 1 + 9 + 1;
  const std::string_view all = buffer_;
  // The header is whole when its third separator is there: a space before data, a newline without.
  std::string_view rest = all;
  std::uint32_t length = 0;
  const std::size_t first = all.find(' '),
                    second = first == all.npos ? first : all.find(' ', first + 1);
  const std::size_t third = second == all.npos ? second : all.find_first_of(" \n", second + 1);
  if (third == all.npos) return all.size() > kMostHeader ? -1 : 0;
  if (third > kMostHeader || !number(rest, ' ', kLastNumber, out.number)) return -1;
  out.command = rest.substr(0, second - first - 1);
  rest.remove_prefix(out.command.size() + 1);
  if (!number(rest, all[third], kMostAnswer, length)) return -1;
  if (all[third] == '\n') {
    if (length != 0) return -1;
    out.data = {};
    used = third + 1;
    return 1;
  }
  if (rest.size() < std::size_t{length} + 1) return 0;
  if (rest[length] != '\n') return -1;
  out.data = rest.substr(0, length);
  used = third + 1 + length + 1;
  return 1;
}

bool RelpClient::take(const Answer& a) {
  if (a.command == "serverclose") return fail("the receiver closes the session");
  if (a.command != "rsp") return fail("not an answer of RELP: '" + shown(a.command) + "'");
  const bool good = a.data.starts_with("200") && (a.data.size() == 3 || a.data[3] == ' ');
  if (!ready_) {
    if (a.number != open_number_) return fail("an answer to nothing");
    if (!good) return fail("the receiver refuses the session: '" + shown(a.data) + "'");
    ready_ = true;
    return true;
  }
  for (Waiting& w : waiting_) {
    if (w.number != a.number || w.answered) continue;
    if (!good) return fail("the receiver refuses a message: '" + shown(a.data) + "'");
    w.answered = true;
    while (!waiting_.empty() && waiting_.front().answered) {
      waiting_.pop_front();
      ++confirmed_;
    }
    return true;
  }
  return fail("an answer to nothing");
}

bool RelpClient::feed(std::string_view bytes) {
  buffer_.append(bytes);
  for (;;) {
    Answer answer;
    std::size_t used = 0;
    const int is = parse(answer, used);
    if (is < 0) return fail("what came is no RELP: '" + shown(buffer_) + "'");
    if (is == 0) return true;
    if (!take(answer)) return false;
    buffer_.erase(0, used);
  }
}

}  // namespace bulkhead::daemon::siem

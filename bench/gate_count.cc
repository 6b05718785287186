#include "bench/gate_count.h"

#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

namespace bulkhead::bench {
namespace {

// "ob=(3) name" or "ob=(3)": the id, and the name where it stands for the first time.
struct Named {
  std::string id, name;
  explicit Named(const std::string& line) {
    const std::size_t at = line.find('=') + 1, end = line.find(')', at);
    id = line.substr(at, end == std::string::npos ? end : end - at + 1);
    if (end != std::string::npos && end + 1 < line.size()) name = line.substr(end + 1);
  }
};

// Self cost (instructions) of the wanted functions of one object in a callgrind output file; inclusive costs of calls, which
// follow a `calls=` line, are left out. Format: valgrind's manual, "Callgrind Format Specification".
class Reader {
 public:
  Reader(const std::string& object, const std::string& without)
      : object_(object), without_(without) {}
  void line(const std::string& text) {
    const auto begins = [&text](const char* with) { return text.rfind(with, 0) == 0; };
    if (begins("ob=") || begins("cob=")) {
      const Named n{text};
      if (!n.name.empty()) objects_[n.id] = n.name.find(object_) != std::string::npos;
      if (begins("ob=")) ours_ = objects_[n.id];
    } else if (begins("fn=") || begins("cfn=")) {
      const Named n{text};
      if (!n.name.empty())
        left_out_[n.id] = !without_.empty() && n.name.find(without_) != std::string::npos;
      if (begins("fn=")) out_ = left_out_[n.id];
    } else if (begins("calls=")) {
      skip_ = true;
    } else if (!text.empty() && std::string{"0123456789+-*"}.find(text[0]) != std::string::npos) {
      if (ours_ && !out_ && !skip_) add(text);
      skip_ = false;
    }
  }
  [[nodiscard]] std::uint64_t sum() const { return sum_; }

 private:
  void add(const std::string& text) {
    std::istringstream fields(text);
    std::string position;
    std::uint64_t cost = 0;
    fields >> position >> cost;
    sum_ += cost;
  }
  std::string object_, without_;
  std::map<std::string, bool> objects_, left_out_;  // "(7)" -> is ours, is left out
  bool ours_ = false, out_ = false, skip_ = false;
  std::uint64_t sum_ = 0;
};

}  // namespace

bool count_instructions(const Lab& lab, const Variant& v, const Tenant& t, const Counted& what,
                        std::uint64_t& instructions) {
  const std::string out = t.dir + "/callgrind.out";
  Params p = what.params;
  p.set("loud", 1);
  std::string command = "env -i";
  auto quoted = [](const std::string& s) { return " '" + s + "'"; };
  for (const std::string& e : lab.environment(v, t, "env")) command += quoted(e);
  command += " valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file=" + out +
             " --log-file=" + t.dir + "/log";
  for (const std::string& c : lab.command(v, t, what.work, p, "env")) command += quoted(c);
  const int rc = std::system(command.c_str());  // NOLINT: a fixed program, arguments quoted
  Reader reader{what.object, what.without};
  std::ifstream in(out + (what.thread < 10 ? "-0" : "-") + std::to_string(what.thread));
  for (std::string line; std::getline(in, line);) reader.line(line);
  instructions = reader.sum();
  const bool good = rc != -1 && WIFEXITED(rc) && WEXITSTATUS(rc) == 0;
  if (!good) {
    std::fprintf(stderr, "bulkhead-bench: '%s' under callgrind failed (%d):\n", what.op.c_str(),
                 rc);
    std::ifstream log(t.dir + "/log");
    std::string line;
    while (std::getline(log, line)) std::fprintf(stderr, "  %s\n", line.c_str());
  }
  return good;
}

}  // namespace bulkhead::bench

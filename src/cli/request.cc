#include "cli/request.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "cli/install.h"
#include "policy/stream_sms.h"
#include "shm/files.h"

namespace bulkhead::cli {
namespace {

using Problem = std::string;  // empty: none

struct Spelling {
  const char* name;
  policy::Grammar grammar;
};
constexpr Spelling kOurs{"BULKHEAD_MEMORY", policy::Grammar::kOurs};
constexpr Spelling kHami{"CUDA_DEVICE_MEMORY_LIMIT", policy::Grammar::kHami};
constexpr const char* kSizeForms = "write it like 10GiB, 512m, 10GB or 50%";

// NAME and NAME_<i>: the first for every visible GPU, the others each for one.
Problem read_variables(const Spelling& how, Request& out) {
  policy::MemorySpec spec;
  bool any = false;
  const std::string every = env_or_empty(how.name);
  if (!every.empty()) {
    if (!policy::parse_memory_spec(every.c_str(), how.grammar, &spec)) {
      return fmt::format("{}='{}' is not a size: {}", how.name, every, kSizeForms);
    }
    any = true;
  }
  for (unsigned i = 0; i < policy::kMaxSpecGpus; ++i) {
    const std::string name = fmt::format("{}_{}", how.name, i);
    const std::string value = env_or_empty(name.c_str());
    if (value.empty()) continue;
    policy::Size size;
    if (!policy::parse_size(value.c_str(), how.grammar, &size)) {
      return fmt::format("{}='{}' is not a size: {}", name, value, kSizeForms);
    }
    if (spec.count == policy::kMaxSpecGpus) return fmt::format("{}: too many GPUs", name);
    policy::MemorySpec::Entry& entry = spec.entries[spec.count++];
    entry.size = size;
    *fmt::format_to_n(entry.gpu, sizeof entry.gpu - 1, "{}", i).out = '\0';
    any = true;
  }
  // HAMi's zero is no limit; alone it asks for nothing.
  if (!any || (spec.count == 0 && !spec.every.is_percent && spec.every.bytes == 0)) return {};
  out.has_memory = true;
  out.memory = spec;
  out.memory_from = how.name;
  out.grammar = how.grammar;
  return {};
}

Problem read_memory(const RunOptions& options, Request& out) {
  if (!options.memory.empty()) {
    if (!policy::parse_memory_spec(options.memory.c_str(), policy::Grammar::kOurs, &out.memory)) {
      return fmt::format("--memory '{}' is not a size: {}, GPU=SIZE for one GPU", options.memory,
                         kSizeForms);
    }
    out.has_memory = true;
    out.memory_from = "--memory";
    return {};
  }
  if (Problem p = read_variables(kOurs, out); !p.empty() || out.has_memory) return p;
  return read_variables(kHami, out);
}

}  // namespace

Outcome<Request> read_request(const RunOptions& options, int* exit_code) {
  Request out;
  const auto blame = [exit_code](const std::string& option) {
    if (exit_code != nullptr) *exit_code = option.empty() ? kExitOurs : kExitUsage;
  };
  blame(options.tenant);
  out.tenant = !options.tenant.empty() ? options.tenant : env_or_empty("BULKHEAD_TENANT");
  if (!out.tenant.empty() && !shm::valid_name(out.tenant.c_str())) {
    return Outcome<Request>::because(
        fmt::format("tenant '{}' is not a name: use a-z, 0-9, '.', '_' and '-', at most 63, the "
                    "first a letter or digit",
                    out.tenant));
  }
  blame(options.on_fault);
  const std::string fault =
      !options.on_fault.empty() ? options.on_fault : env_or_empty("BULKHEAD_ON_FAULT");
  if (!fault.empty() && fault != "deny" && fault != "open") {
    return Outcome<Request>::because(fmt::format("on-fault '{}' is neither deny nor open", fault));
  }
  out.open_on_fault = fault == "open";
  blame(options.audit);
  out.audit = !options.audit.empty() ? options.audit : env_or_empty("BULKHEAD_AUDIT");
  if (!out.audit.empty() && out.audit != "off" && out.audit != "observe" && out.audit != "enforce")
    return Outcome<Request>::because(
        fmt::format("audit '{}' is neither off, observe nor enforce", out.audit));
  out.simulator = !options.simulator.empty() ? options.simulator : env_or_empty("BULKHEAD_SIM");
  blame(options.memory);
  if (Problem p = read_memory(options, out); !p.empty()) return Outcome<Request>::because(p);
  blame(options.share.any() ? "--compute" : "");
  if (Problem p = read_share(options.share, false, out.share); !p.empty())
    return Outcome<Request>::because(p);
  if (Problem p = lower_by_variable(env_or_empty("BULKHEAD_COMPUTE"), out.share); !p.empty()) {
    blame("");
    return Outcome<Request>::because(p);
  }
  blame(options.streams);
  out.streams = !options.streams.empty() ? options.streams : env_or_empty("BULKHEAD_STREAM_SMS");
  if (std::uint32_t x100 = 0;
      !out.streams.empty() && !policy::parse_stream_sms(out.streams.c_str(), &x100))
    return Outcome<Request>::because(
        fmt::format("{}'{}' is not possible: {}",
                    options.streams.empty() ? "BULKHEAD_STREAM_SMS=" : "--streams ", out.streams,
                    policy::kStreamSmsFix));
  blame("--compute");
  if ((out.share.has_burst || out.share.has_window) && !out.share.has_compute)
    return Outcome<Request>::because("--compute-burst and --compute-window need --compute");
  return out;
}

void disarm_environment() {
  std::vector<std::string> names;
  for (char** at = environ; *at != nullptr; ++at) {
    const char* equals = std::strchr(*at, '=');
    if (equals == nullptr) continue;
    const std::string name(*at, static_cast<std::size_t>(equals - *at));
    if (name == "BULKHEAD_TENANT" || name.starts_with("BULKHEAD_MEMORY") ||
        name == "BULKHEAD_COMPUTE" || name.starts_with("CUDA_DEVICE_MEMORY_LIMIT")) {
      names.push_back(name);
    }
  }
  for (const std::string& name : names) ::unsetenv(name.c_str());
}

}  // namespace bulkhead::cli

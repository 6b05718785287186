#include "cli/selftest.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "cli/install.h"
#include "cli/selftest_inside.h"
#include "policy/spatial.h"

namespace bulkhead::cli {
namespace selftest {

using nlohmann::json;
namespace fs = std::filesystem;

std::vector<std::string> Bench::worker(const char* what) const {
  return {own_path(), "__selftest", what, machine.simulator};
}

json parsed(const std::string& line) {
  json out = json::parse(line, nullptr, false);
  return out.is_object() ? out : json::object();
}

std::string problem_of(const json& j) {
  const auto at = j.find("problem");
  return at != j.end() && at->is_string() ? at->get<std::string>() : "no answer";
}

std::optional<unsigned> number(const json& j, const char* key) {
  const auto at = j.find(key);
  if (at == j.end() || !at->is_number_unsigned()) return std::nullopt;
  return at->get<unsigned>();
}

json ask(const Bench& b, const char* what, const Variables& more) {
  Talk worker{b.worker(what), b.with(more)};
  return parsed(worker.line(kPatience_ms));
}

PrivateMps::PrivateMps(const std::string& program, const std::vector<std::string>& more)
    : program_(program) {
  char name[] = "/tmp/bulkhead-mps-XXXXXX";
  if (::mkdtemp(name) == nullptr) return;
  home_ = name;
  ::mkdir((home_ + "/pipe").c_str(), 0700);
  ::mkdir((home_ + "/log").c_str(), 0700);
  std::vector<std::string> words{program_, "-d"};
  words.insert(words.end(), more.begin(), more.end());
  Talk start{words, variables()};
  if (start.wait(kPatience_ms, said_) == 0) runs_ = order("get_server_list").first == 0;
}

PrivateMps::~PrivateMps() {
  if (runs_) (void)order("quit");
  std::error_code none;
  if (!home_.empty()) fs::remove_all(home_, none);
}

std::pair<int, std::string> PrivateMps::order(const std::string& text) {
  Talk one{{program_}, variables()};
  one.say(text + "\n");
  std::string said;
  const int code = one.wait(kPatience_ms, said);
  return {code, said};
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace selftest

namespace {

using gpu::Finding;
using nlohmann::json;
using shm::Seen;
using namespace selftest;
constexpr const char* kSlice_us = "100";

// "132 SMs at 100%, 66 at 50%, ..."; the driver's own figure beside it where it is another.
void note_count(std::string& evidence, const char* percent, unsigned distinct, unsigned told) {
  evidence += fmt::format("{}{}{} at {}%", evidence.empty() ? "" : ", ", distinct,
                          evidence.empty() ? " SMs" : "", percent);
  if (distinct != told) evidence += fmt::format(" (the driver says {})", told);
}

void test_spatial(const Bench& b, PrivateMps& mps, gpu::SelfTest& out) {
  Finding& f = out.spatial;
  if (!mps.runs()) {
    f.evidence = b.options.control + " does not serve: " + first_line(mps.said());
    return;
  }
  struct Step {
    const char* percent;
    std::uint32_t x100;
  };
  bool binds = true;
  for (const Step s : {Step{"100", 10'000}, Step{"50", 5'000}, Step{"25", 2'500}, Step{"1", 100}}) {
    Variables more = mps.variables();
    more.emplace_back("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", s.percent);
    const json said = ask(b, "smid", more);
    const auto distinct = number(said, "distinct"), told = number(said, "attribute");
    if (!distinct || !told || *distinct == 0) {
      f.evidence += fmt::format("; at {}%: {}", s.percent, problem_of(said));
      return;  // unknown
    }
    note_count(f.evidence, s.percent, *distinct, *told);
    if (s.x100 == 10'000) out.sms = *distinct;
    if (s.x100 == 100) out.sm_least = *distinct;
    out.sm_unit = std::gcd(out.sm_unit, *distinct);
    // the least is a unit, whatever the percentage
    const std::uint32_t most =
        std::max(policy::sms_of_share(s.x100, out.sms, 1), s.x100 == 100 ? *distinct : 0u);
    binds &= *distinct <= most && *told == *distinct;
  }
  binds &= out.sm_least < out.sms;
  f.verdict = binds ? Seen::kWorks : Seen::kNo;
}

void test_green(const Bench& b, gpu::SelfTest& out) {
  const json said = ask(b, "green");
  const auto given = number(said, "given"), distinct = number(said, "distinct");
  if (!given || !distinct || *distinct == 0) {
    out.green.evidence = problem_of(said);
    return;
  }
  out.green = {*distinct <= *given ? Seen::kWorks : Seen::kNo,
               fmt::format("{} SMs used of {} given", *distinct, *given)};
  out.green_sms = number(said, "all").value_or(0);
  out.green_unit = *given;
}

// The short kernel's median beside the long ones, us; nullopt: `why`.
std::optional<unsigned> beside_batch(const Bench& b, const Variables& of_batch, std::string& why) {
  Talk batch{b.worker("batch"), b.with(of_batch)};
  if (const std::string said = batch.line(kPatience_ms); said != "ready") {
    why = problem_of(parsed(said));
    return std::nullopt;
  }
  const json said = ask(b, "latency");
  batch.end_input();
  std::string rest;
  (void)batch.wait(kPatience_ms, rest);
  why = problem_of(said);
  return number(said, "p50_us");
}

void test_slice(const Bench& b, gpu::SelfTest& out) {
  const std::string library = find_library();
  if (library.empty()) {
    out.slice.evidence = "libbulkhead.so is not there";
    return;
  }
  std::string why;
  const auto usual = beside_batch(b, {}, why);
  const auto shorter =
      usual ? beside_batch(b, {{"LD_PRELOAD", library}, {"BULKHEAD_SLICE_US", kSlice_us}}, why)
            : std::nullopt;
  if (!usual || !shorter) {
    out.slice.evidence = why;
    return;
  }
  out.slice = {*shorter < *usual / 2 ? Seen::kWorks : Seen::kNo,
               fmt::format("0.1 ms beside 5 ms kernels: median {} us, with slices of {} us {} us",
                           *usual, kSlice_us, *shorter)};
}

// Who is on the GPU: "" = nobody.
std::string user_of(const Machine& machine, const NvmlGpu& gpu) {
  const auto uuid = parse_uuid(gpu.uuid);
  const nvmlDevice_t device = uuid ? machine.nvml->by_uuid(uuid->data()) : nullptr;
  const auto list = device == nullptr ? std::nullopt : machine.nvml->processes(device);
  if (!list) return "NVML does not say who uses it";
  return list->empty() ? "" : fmt::format("process {} uses it", (*list)[0].pid);
}

gpu::SelfTest test_gpu(const Machine& machine, const SelfTestOptions& options, const NvmlGpu& gpu) {
  Bench b{machine,
          options,
          {{"LD_PRELOAD", ""},
           {"BULKHEAD_TENANT", ""},
           {"BULKHEAD_MEMORY", ""},
           {"CUDA_MPS_PIPE_DIRECTORY", ""},
           {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", ""},
           {"CUDA_MPS_SM_PARTITION", ""},
           {"CUDA_VISIBLE_DEVICES", gpu.uuid}}};
  if (machine.simulated) b.variables.emplace_back("BULKHEAD_SIM_TIMED", "1");
  gpu::SelfTest out;
  out.uuid = gpu.uuid;
  out.name = gpu.name;
  out.driver = machine.nvml->driver_version();
  out.tested = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  if (options.mps) {
    PrivateMps mps{options.control};
    test_spatial(b, mps, out);
    test_partitions(b, mps, out);
  } else {
    out.spatial.evidence = out.partitions.evidence = "MPS is not allowed by the configuration";
  }
  test_green(b, out);
  test_slice(b, out);
  return out;
}

}  // namespace

std::string self_test(const Machine& machine, const SelfTestOptions& options,
                      std::vector<gpu::SelfTest>& out) {
  if (!machine.nvml) return machine.nvml_problem;
  if (machine.state.empty())
    return "there is no directory to keep what is seen in: set HOME or XDG_STATE_HOME";
  const auto gpus = machine.nvml->gpus();
  if (gpus.empty()) return "NVML shows no GPU";
  for (const NvmlGpu& gpu : gpus) {
    if (const std::string user = user_of(machine, gpu); !user.empty())
      return fmt::format("GPU {} is not idle: {}; a self-test needs all of it", gpu.index, user);
  }
  for (const NvmlGpu& gpu : gpus) {
    out.push_back(test_gpu(machine, options, gpu));
    if (std::string p = gpu::keep_self_test(machine.state, out.back()); !p.empty()) return p;
  }
  return {};
}

}  // namespace bulkhead::cli

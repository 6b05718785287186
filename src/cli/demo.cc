#include "cli/demo.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/clock.h"
#include "cli/demo_stage.h"
#include "cli/driver.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/request.h"
#include "policy/limit.h"

namespace bulkhead::cli {
namespace {

constexpr std::uint64_t kGiB = 1u << 30;
constexpr std::uint64_t kStep = policy::kLimitStep;  // the least a driver hands out
constexpr int kOutOfMemory = CUDA_ERROR_OUT_OF_MEMORY;

struct Play {
  const Machine& machine;
  DemoScreen screen{};
  std::string simulator;  // a profile
  std::uint64_t blue_bytes = 0, red_bytes = 0;
  std::unique_ptr<DemoWorker> blue_1{}, blue_2{}, red{};
  std::uint64_t looks = 0, over = 0;  // how often the books were read, and how often they were over

  TenantBooks books(const char* name) {
    TenantBooks out = read_tenant(machine.dir, name);
    ++looks;
    if (out.devices.empty() || out.devices[0].used_bytes > out.devices[0].limit_bytes) ++over;
    return out;
  }
  // Until `worker` has answered, the books are watched.
  std::vector<std::string> watch(DemoWorker& worker) {
    while (!worker.has_answer(1)) {
      books("blue");
      books("red");
    }
    return worker.answer();
  }
  void bars() {
    screen.bar(books("blue"));
    screen.bar(books("red"));
  }
};

std::string gib(std::uint64_t bytes) {
  char text[policy::kSizeText];
  return policy::format_size(bytes, text);
}
std::uint64_t number(const std::vector<std::string>& words, std::size_t at) {
  return at < words.size() ? std::strtoull(words[at].c_str(), nullptr, 10) : 0;
}

bool raise_curtain(Play& p) {
  p.screen.step(
      fmt::format("1  Two tenants on one GPU: blue has {} for two processes, red has {} for one",
                  gib(p.blue_bytes), gib(p.red_bytes)));
  std::string problem;
  p.blue_1 = DemoWorker::begin("blue", p.blue_bytes, p.simulator, problem);
  if (p.blue_1) p.blue_2 = DemoWorker::begin("blue", p.blue_bytes, p.simulator, problem);
  if (p.blue_2) p.red = DemoWorker::begin("red", p.red_bytes, p.simulator, problem);
  if (!p.red) {
    p.screen.check(false, problem);
    return false;
  }
  for (DemoWorker* w : {p.blue_1.get(), p.red.get()}) {
    w->order("memory");
    const auto said = p.watch(*w);
    const std::uint64_t quota = w == p.red.get() ? p.red_bytes : p.blue_bytes;
    p.screen.check(
        number(said, 1) == quota && number(said, 2) == quota,
        fmt::format("{}: the driver says this GPU has {}", w->tenant(), gib(number(said, 1))));
  }
  return true;
}

void fill_red(Play& p) {
  p.screen.step("2  red takes all it can get");
  p.red->order("fill");
  const auto said = p.watch(*p.red);
  const TenantBooks red = p.books("red");
  p.screen.bar(red);
  p.screen.check(number(said, 2) == kOutOfMemory,
                 "the first request that does not fit is refused with CUDA_ERROR_OUT_OF_MEMORY");
  p.screen.check(red.devices[0].free_bytes() < kStep,
                 fmt::format("not earlier: {} of its quota is left, less than the smallest piece",
                             gib(red.devices[0].free_bytes())));
}

void race_blue(Play& p) {
  p.screen.step("3  blue's two processes race for blue's quota");
  p.blue_1->order("fill");
  p.blue_2->order("fill");
  const auto first = p.watch(*p.blue_1);
  const auto second = p.watch(*p.blue_2);
  const TenantBooks blue = p.books("blue");
  p.screen.bar(blue);
  p.screen.check(number(first, 2) == kOutOfMemory && number(second, 2) == kOutOfMemory,
                 fmt::format("one got {}, the other {}, then both were refused",
                             gib(number(first, 1)), gib(number(second, 1))));
  p.screen.check(blue.devices[0].used_bytes <= p.blue_bytes && blue.devices[0].free_bytes() < kStep,
                 fmt::format("together {}, contexts included: the quota is full and not passed",
                             gib(blue.devices[0].used_bytes)));
}

void kill_one(Play& p) {
  const pid_t victim = p.blue_1->pid();
  const std::uint64_t held = held_by(p.books("blue"), victim);
  p.screen.step(
      fmt::format("4  one of blue's processes, holding {}, is killed with SIGKILL", gib(held)));
  const int code = p.blue_1->kill_and_wait();
  p.screen.check(code == 128 + SIGKILL, fmt::format("bulkhead run exits with {}", code));
  // A process that was refused a moment ago looks for the dead again at the next tick of the kernel's
  // coarse clock, so the first try may come too early by up to 10 ms.
  std::uint64_t taken = 0;
  const std::uint64_t seen_ns = monotonic_ns();
  for (int tries = 0; tries < 20 && taken + kStep <= held; ++tries) {
    if (tries != 0) ::poll(nullptr, 0, 5);
    p.blue_2->order("fill");
    taken += number(p.watch(*p.blue_2), 1);
  }
  const std::uint64_t after_ms = (monotonic_ns() - seen_ns) / 1'000'000;
  const TenantBooks blue = p.books("blue");
  p.screen.bar(blue);
  p.screen.check(
      taken + kStep > held && held != 0,
      fmt::format("{} ms later the other has taken {}: nothing was lost", after_ms, gib(taken)));
  p.screen.check(blue.devices[0].used_bytes <= p.blue_bytes, "and blue is still within its quota");
}

// The driver's own figures for the tenants' processes, against the quotas.
void ask_nvml(Play& p) {
  if (!p.machine.nvml) return;
  for (const char* name : {"blue", "red"}) {
    const TenantBooks tenant = p.books(name);
    const nvmlDevice_t gpu = p.machine.nvml->by_uuid(tenant.devices[0].uuid.data());
    const auto shown = gpu != nullptr ? p.machine.nvml->processes(gpu) : std::nullopt;
    std::uint64_t bytes = 0;
    for (const NvmlProcess& n : shown.value_or(std::vector<NvmlProcess>{})) {
      if (held_by(tenant, static_cast<pid_t>(n.pid)) != 0) bytes += n.bytes;
    }
    if (bytes == 0) continue;  // another process namespace: NVML's numbers are not ours
    p.screen.check(bytes <= tenant.devices[0].limit_bytes,
                   fmt::format("NVML shows {} for {}, quota {}", gib(bytes), name,
                               gib(tenant.devices[0].limit_bytes)));
  }
}

void curtain(Play& p) {
  p.screen.step("5  what everybody has in the end");
  p.bars();
  ask_nvml(p);
  p.red->order("memory");
  const auto said = p.watch(*p.red);
  p.screen.check(number(said, 1) == p.red_bytes, "red noticed none of it");
  p.screen.check(
      p.over == 0,
      fmt::format("the books were read {} times on the way: never over a quota", p.looks));
}

// Quotas of 4 and 3 GiB, or less on a small or busy GPU; 0: there is no room for a demo.
std::uint64_t choose_quota(const Machine& machine) {
  const auto gpus = machine.nvml ? machine.nvml->gpus() : std::vector<NvmlGpu>{};
  if (gpus.empty()) return 4 * kGiB;
  const std::uint64_t free =
      gpus[0].total_bytes - std::min(gpus[0].used_bytes, gpus[0].total_bytes);
  const std::uint64_t quarter = free / 4 / kStep * kStep;
  return quarter < kGiB + kGiB / 2 ? 0 : std::min(quarter, 4 * kGiB);
}

bool has_gpu() {
  const auto nvml = Nvml::open("");
  return nvml.ok() && !nvml.value->gpus().empty() && open_driver("").ok();
}

int play(const std::string& simulator) {
  auto machine = open_machine(simulator, Directory::kCreate);
  if (!machine.ok()) return fail(kExitOurs, machine.problem);
  Play p{**machine};
  p.simulator = simulator;
  p.blue_bytes = choose_quota(**machine);
  p.red_bytes = p.blue_bytes / 4 * 3 / kStep * kStep;
  if (p.blue_bytes == 0) {
    return fail(kExitOurs,
                "the GPU has less than 6 GiB free: try the simulated one, bulkhead demo --sim");
  }
  p.screen.title(p.machine.simulated
                     ? "Bulkhead demo, on the simulated driver (real processes, no GPU)"
                     : "Bulkhead demo, on " + p.machine.nvml->gpus()[0].name + ", driver " +
                           p.machine.nvml->driver_version());
  if (raise_curtain(p)) {
    fill_red(p);
    race_blue(p);
    kill_one(p);
    curtain(p);
  }
  p.screen.verdict();
  return p.screen.all_held() ? kExitOk : kExitProblem;
}

}  // namespace

int demo(const DemoOptions& options) {
  disarm_environment();
  ::signal(SIGPIPE, SIG_IGN);  // a worker that died is a failed check
  std::string simulator =
      options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator;
  if (simulator.empty() && !has_gpu()) simulator = "h200";
  // A stage of its own: nobody's tenants are touched, and nothing stays.
  std::string stage = (std::filesystem::temp_directory_path() / "bulkhead-demo-XXXXXX").string();
  if (::mkdtemp(stage.data()) == nullptr)
    return fail(kExitOurs, stage + ": cannot be made; set TMPDIR");
  ::setenv("BULKHEAD_DIR", stage.c_str(), 1);
  const int code = play(simulator);
  std::error_code ignored;
  std::filesystem::remove_all(stage, ignored);
  return code;
}

}  // namespace bulkhead::cli

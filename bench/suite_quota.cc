// Row 5: what one tenant can get through each API, as NVML sees it from outside.
#include <algorithm>
#include <cstring>

#include "bench/crew.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr const char* kApis[] = {"plain large", "plain small", "pitch",      "managed",
                                 "async pool",  "own pool",    "VMM",        "array 2D",
                                 "array 3D",    "mipmap",      "graph node", "second context",
                                 "IPC import",  "8 threads"};
constexpr int kSampleMs = 10;

struct Seen {
  std::uint64_t most = 0;  // NVML, the tenant's processes together
  bool by_device =
      false;  // managed memory shows only in the device's own figure: its rise since the first kernel
  std::uint64_t processes_at_start = 0,
                device_at_start = 0;  // is added to what the process had then
};

void sample(Bench& b, Crew& crew, Seen& seen) {
  std::uint64_t now = b.outside.used_by(crew.pids());
  if (seen.by_device && seen.device_at_start != 0) {
    const std::uint64_t device = b.outside.used();
    now = seen.processes_at_start +
          (device > seen.device_at_start ? device - seen.device_at_start : 0);
  }
  seen.most = std::max(seen.most, now);
}

// Runs the case; false: error in the crew. Nothing but this tenant may use the device meanwhile.
bool run(Bench& b, Crew& crew, const std::string& api, Seen& seen, unsigned& me) {
  auto poll = [&] { sample(b, crew, seen); };
  if (api == "IPC import") {
    Params exporter;
    exporter.set("bytes", 3 * kGiB);
    crew.start("export", exporter);
    if (!crew.all_said(60, kSampleMs, poll)) return false;
  }
  Params p;
  p.set("api", api);
  p.set("most", b.lab.device_bytes / 2);
  me = crew.start("fill", p);
  if (!crew.said(me, 60)) return false;
  seen.processes_at_start = b.outside.used_by(crew.pids());
  seen.device_at_start = b.outside.used();
  if (me != 0) std::memcpy(crew.block(me).log, crew.block(0).log, sizeof(LogEntry) * 4);
  crew.go(me);
  // all_said() wants every worker's step; the exporter has said its own, so only the filler is looked at.
  for (int waited_ms = 0; waited_ms < 120'000; waited_ms += kSampleMs) {
    poll();
    if (crew.said_within(me, kSampleMs)) {
      for (int i = 0; i < 5; ++i) crew.pause(kSampleMs), poll();
      return true;
    }
    if (!crew.error().empty()) return false;
  }
  return false;
}

void fill_case(Bench& b, const Variant& v, const std::string& api) {
  const Tenant t = b.lab.make_tenant(kQuota);
  {
    Crew crew(b.lab, v, t, b.lab.launch == "env" ? "env" : "run");
    Seen seen;
    seen.by_device = api == "managed";
    unsigned me = 0;
    if (!run(b, crew, api, seen, me)) {
      b.results.failed(api, v.name, crew.error().empty() ? "watchdog" : crew.error());
    } else if (seen.most == 0) {
      b.results.failed(api, v.name, "NVML showed none of the tenant's processes");
    } else {
      const Block& block = crew.block(me);
      const auto quota = static_cast<double>(t.quota_bytes);
      const double over = static_cast<double>(seen.most) - quota;
      b.results.add(api, "seen / quota", "%", v.name, static_cast<double>(seen.most) / quota * 100);
      b.results.add(api, "bytes over", "B", v.name, over > 0 ? over : 0);
      b.results.add(api, "refusal code", "", v.name, block.value[1],
                    block.value[5] != 0   ? "never refused: stopped at half the device"
                    : block.value[2] != 0 ? "some refusals had another code than 2"
                                          : "");
      b.results.add(api, "total seen inside", "B", v.name, block.value[3]);
    }
  }
  b.lab.drop_tenant(t);
}

}  // namespace

void verify_limits(Bench& b) {
  for (Variant& v : b.lab.variants) {
    if (v.kind == Variant::Kind::kNative) continue;
    const Tenant t = b.lab.make_tenant(kQuota);
    {
      Crew crew(b.lab, v, t);
      Params p;
      p.set("quota", t.quota_bytes);
      crew.start("probe", p);
      if (!crew.finish(60))
        v.inert = crew.error();
      else if (crew.block(0).value[0] == 0)
        v.inert = "a request above the limit was granted";
    }
    b.lab.drop_tenant(t);
    if (!v.inert.empty())
      std::fprintf(stderr, "bulkhead-bench: %s: limit inert (%s)\n", v.name.c_str(),
                   v.inert.c_str());
  }
}

void suite_quota(Bench& b) {
  b.results.begin(5, "quota");
  if (!b.outside.ok()) b.results.failed("all", "all", "no NVML to look from outside");
  for (const char* api : kApis) {
    if (!b.outside.ok()) break;
    if (b.lab.late()) {
      b.results.failed(api, "all", "no time left");
      continue;
    }
    for (const Variant& v : b.lab.variants)
      if (v.kind != Variant::Kind::kNative) fill_case(b, v, api);
  }
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench

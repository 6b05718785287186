// A picture with changing figures and a sight child on it, without a daemon: for the tests of the child and to look at the
// console. Orders come on stdin, one a line: "write" (the next state), "freeze"/"go" (the figures stand still), "odd" (as if
// killed while it writes), "even", "tick" (the child's keeper; answers with its pid), "end". Each is answered by "ok".
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "base/clock.h"
#include "daemon/sight/child.h"
#include "wire/picture.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::wire;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

template <std::size_t N>
void text(char (&to)[N], const std::string& from) {
  std::memset(to, 0, N);
  std::memcpy(to, from.data(), std::min(N - 1, from.size()));
}

void uuid_of(std::uint8_t* to, unsigned gpu) {
  for (unsigned i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(0x5a + 11 * i + 97 * gpu);
}

struct Sample {
  const char* name;
  std::uint64_t limit_bytes;
  double low, high;  // part of the limit
  double seconds;    // of one swing
  unsigned gpu;
  unsigned processes;
  std::uint32_t flags;
  std::uint32_t priority;
  std::uint32_t compute_x100 = 0, ceiling_x100 = 0;
  std::uint32_t mode = 0, enforcer = 0;  // as of TenantView
  const char* mps_group = "";
};
constexpr Sample kSamples[] = {
    {"inference-prod", 40 * kGiB, 0.62, 0.81, 37, 0, 4, kViewConfigured, 1, 4000, 4000, 0, 1,
     "prod"},
    {"training-nightly", 60 * kGiB, 0.90, 1.00, 90, 0, 2, kViewConfigured, 0, 2500, 8000},
    {"notebook-meyer", 16 * kGiB, 0.02, 0.55, 23, 0, 1, 0, 0},
    {"run-48121-9377215", 8 * kGiB, 0.30, 0.35, 15, 0, 1, kViewEphemeral, 0},
    {"embeddings", 24 * kGiB, 0.40, 0.52, 61, 1, 3, kViewConfigured, 1, 2500, 2500, 1, 1, "prod"},
    {"risk-batch", 80 * kGiB, 0.55, 0.97, 140, 1, 8, kViewConfigured | kViewOvercommitted, 0, 5000,
     5000, 2, 2},
    {"sandbox", 4 * kGiB, 1.10, 1.15, 50, 1, 1, kViewOverLimit, 0},
};

class Filler {
 public:
  explicit Filler(bool tidy) : tidy_(tidy) {
    fd_ = UniqueFd{::memfd_create("picture", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (::ftruncate(fd_.get(), sizeof(Picture)) != 0) std::abort();
    void* at = ::mmap(nullptr, sizeof(Picture), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    picture_ = static_cast<Picture*>(at);
    write(0);
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  void odd() { picture_->sequence.begin_write(); }
  void even() { picture_->sequence.end_write(); }
  void write(double t) {
    Picture& p = *picture_;
    p.sequence.begin_write();
    p.magic = kPictureMagic;
    p.bytes = sizeof(Picture);
    p.unix_ns = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME));
    daemon(p.daemon, t);
    tenants(p, t);
    devices(p, t);
    strays(p);
    events(p);
    p.sequence.end_write();
  }

 private:
  static void daemon(DaemonView& d, double t) {
    d.pid = static_cast<std::uint32_t>(::getpid());
    d.started_unix_s = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME) / 1'000'000'000) - 86'400;
    d.cpu_ns = static_cast<std::uint64_t>(t * 3e6) + 41'000'000'000;
    d.rss_bytes = 11u << 20;
    d.reaped_processes = 117;
    d.reaped_bytes = 412 * kGiB;
    d.reap_delays[6] = 3;
    d.reap_delays[7] = 71;
    d.reap_delays[8] = 39;
    d.reap_delays[11] = 4;
    d.reap_delay_sum_ns = 117 * 150'000;
    d.events_total = 12;
    d.requests_total = 8123 + static_cast<std::uint64_t>(t);
    d.requests_refused = 4;
    d.sentinel_rounds = 86'400;
    d.bypasses_found = 1;
    text(d.version, "0.1.0");
  }
  static void time(DeviceView& d, const Sample& s, double t, double wave) {
    const auto ns = [](double seconds) { return static_cast<std::uint64_t>(seconds * 1e9); };
    d.compute_x100 = s.compute_x100;
    d.ceiling_x100 = s.ceiling_x100;
    d.delivered_x100 = static_cast<std::uint32_t>(s.ceiling_x100 * (0.55 + 0.44 * wave));
    d.rate_x100 = s.ceiling_x100;
    d.used_ns = ns(41'000 + t * 0.2);
    d.held_ns = ns(97'000 + t * 0.6);
    d.borrowed_ns = s.ceiling_x100 > s.compute_x100 ? ns(1'800 + t * 0.02) : 0;
    d.forgiven_ns = ns(0.25);
    d.gated_ns = s.priority == 0 ? ns(812 + t * 0.01) : 0;
    d.gates = d.gated_ns / 1'000'000;
    d.launches = 81'000'000 + static_cast<std::uint64_t>(t * 4000);
  }
  void tenants(Picture& p, double t) const {
    p.tenants = 0;
    for (const Sample& s : kSamples) {
      TenantView& v = p.tenant[p.tenants++];
      v = {};
      text(v.name, s.name);
      v.owner_uid = 1000 + p.tenants;
      v.flags = s.flags;
      v.processes = s.processes;
      v.priority = s.priority;
      v.compute_mode = s.mode;
      v.enforcer = s.enforcer;
      v.mps_state = *s.mps_group != '\0' ? 1 : 0;
      text(v.mps_group, s.mps_group);
      v.allocs = 100'000 + static_cast<std::uint64_t>(t * 13);
      v.frees = v.allocs - 812;
      v.refused = s.flags == kViewOverLimit ? 37 : p.tenants == 2 ? 1204 : 0;
      v.device_count = 1;
      DeviceView& d = v.devices[0];
      uuid_of(d.uuid, s.gpu);
      const double wave = 0.5 + 0.5 * std::sin(6.2832 * t / s.seconds + p.tenants);
      d.limit_bytes = s.limit_bytes;
      d.used_bytes = static_cast<std::uint64_t>(static_cast<double>(s.limit_bytes) *
                                                (s.low + (s.high - s.low) * wave));
      d.other_bytes = s.processes * (std::uint64_t{523} << 20);
      d.gpu_ms = s.gpu == 0 ? static_cast<std::uint64_t>(t * 300) : ~std::uint64_t{0};
      d.share_x100 = s.gpu == 0 ? static_cast<std::uint32_t>(500 + 2500 * wave) : kUnknownShare;
      if (s.compute_x100 != 0) time(d, s, t, wave);
      d.held_ms = 86'400'000;
      d.byte_seconds = d.used_bytes * 3600;
      d.processes = s.processes;
    }
    if (tidy_) return;
    // What a hostile tenant could make of its name, if names were not checked before.
    TenantView& bad = p.tenant[p.tenants++];
    bad = {};
    text(bad.name, "<script>window.broken=1</script>\"\\\n\xff");
    bad.device_count = 1;
    uuid_of(bad.devices[0].uuid, 0);
    bad.devices[0].limit_bytes = kGiB;
    bad.devices[0].share_x100 = kUnknownShare;
    bad.devices[0].gpu_ms = ~std::uint64_t{0};
  }
  static void devices(Picture& p, double t) {
    p.devices = 2;
    for (unsigned i = 0; i < p.devices; ++i) {
      NodeDevice& d = p.device[i];
      d = {};
      uuid_of(d.uuid, i);
      text(d.name, "NVIDIA H200");
      d.index = i;
      // spatial works, partitions do not; the second GPU's slices too
      d.flags = 1u << kSeenShift | 2u << (kSeenShift + 2) | 1u << (kSeenShift + 4) |
                (i == 1 ? 1u << (kSeenShift + 6) : 0u);
      d.gate_bound_us = i == 0 ? 2080 : 940;
      d.total_bytes = 150'754'820'096;
      d.usable_bytes = 150'109'683'712;
      d.used_bytes = 654 << 20;
      for (std::uint32_t n = 0; n < p.tenants; ++n) {
        if (std::memcmp(p.tenant[n].devices[0].uuid, d.uuid, 16) != 0) continue;
        d.used_bytes += p.tenant[n].devices[0].used_bytes;
        d.promised_bytes += p.tenant[n].devices[0].limit_bytes;
      }
      d.reserve_bytes = i == 0 ? 0 : 12 * kGiB;
      d.utilisation_x100 =
          i == 0 ? static_cast<std::uint32_t>(6200 + 1500 * std::sin(t / 4)) : 9800;
    }
  }
  void strays(Picture& p) const {
    p.strays = 1;
    StrayView& s = p.stray[0];
    s = {};
    s.pid = 31337;
    s.uid = 1007;
    uuid_of(s.uuid, 1);
    s.bytes = 3 * kGiB + (300u << 20);
    s.kind = StrayKind::kUnregistered;
    s.sightings = 212;
    text(s.command, tidy_ ? "python3" : "<img src=x>");
  }
  static void event(Picture& p, EventKind kind, Severity severity, const char* tenant,
                    const char* what) {
    EventView& e = p.event[p.next_event_id % kPictureEvents];
    e = {};
    e.id = p.next_event_id++;
    e.unix_ns = p.unix_ns - static_cast<std::int64_t>((12 - p.event_count) * 41) * 1'000'000'000;
    e.kind = kind;
    e.severity = severity;
    text(e.tenant, tenant);
    text(e.text, what);
    ++p.event_count;
  }
  void events(Picture& p) const {
    p.next_event_id = 5000;
    p.event_count = 0;
    using enum EventKind;
    using enum Severity;
    event(p, kDaemonStarted, kNotice, "", "bulkheadd 0.1.0, 2 GPUs, 6 tenants adopted");
    event(p, kConfigLoaded, kInfo, "", "/etc/bulkhead/bulkheadd.toml: 5 tenants");
    event(p, kTenantRegistered, kInfo, "notebook-meyer", "16 GiB on GPU 0, asked for by uid 1003");
    event(p, kProcessReaped, kInfo, "risk-batch",
          "pid 4711 was killed; 9.61 GiB are free again after 118 us");
    event(p, kAdmissionRefused, kNotice, "run-48120-9376001",
          "64 GiB asked on GPU 0; 124 GiB of 139.8 GiB are promised, 15.8 GiB are left");
    event(p, kBypassFound, kAlarm, "",
          "pid 31337 (python3, uid 1007) uses GPU 1 around the library: 3.29 GiB");
    event(p, kLimitBelowUse, kWarning, "sandbox",
          "4 GiB is less than the 4.51 GiB it holds: growth has stopped");
    if (!tidy_) event(p, kTenantFaulty, kWarning, "<b>x</b>", "<script>window.broken=2</script>");
  }

  UniqueFd fd_;
  Picture* picture_ = nullptr;
  bool tidy_;
};

int number_after(int argc, char** argv, const char* flag) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], flag) == 0) return std::atoi(argv[i + 1]);
  }
  return 0;
}

bool has(int argc, char** argv, const char* flag) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], flag) == 0) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], daemon::kSightFlag) == 0) return daemon::sight_child_main();
  if (argc < 2) {
    std::fputs(
        "fill_picture DIRECTORY [--metrics PORT] [--console PORT] [--hami] [--dcgm] [--tidy]\n",
        stderr);
    return 2;
  }
  Filler filler{has(argc, argv, "--tidy")};
  daemon::SightChild child;
  daemon::SightChild::Setup setup;
  setup.directory = argv[1];
  setup.metrics_port = static_cast<std::uint16_t>(number_after(argc, argv, "--metrics"));
  setup.console_port = static_cast<std::uint16_t>(number_after(argc, argv, "--console"));
  setup.hami_names = has(argc, argv, "--hami");
  setup.dcgm_names = has(argc, argv, "--dcgm");
  const auto started = child.start(setup, filler.fd());
  if (!started.ok()) {
    std::fprintf(stderr, "fill_picture: %s\n", started.problem.c_str());
    return 1;
  }
  std::printf("ready %d\n", child.pid());
  std::fflush(stdout);
  const std::uint64_t began = monotonic_ns();
  const auto age_s = [&] { return static_cast<double>(monotonic_ns() - began) / 1e9; };
  bool frozen = false;
  std::string order;
  for (;;) {
    pollfd in{0, POLLIN, 0};
    if (::poll(&in, 1, 500) == 0) {
      if (!frozen) filler.write(age_s());
      continue;
    }
    if (!std::getline(std::cin, order) || order == "end") return 0;
    if (order == "freeze") frozen = true;
    if (order == "go") frozen = false;
    if (order == "write") filler.write(age_s());
    if (order == "odd") filler.odd();
    if (order == "even") filler.even();
    if (order.rfind("tick", 0) == 0) {
      daemon::Now now;
      now.mono_ns = monotonic_ns() + std::strtoull(order.c_str() + 4, nullptr, 10) * 1'000'000'000;
      child.tick(now);
      std::printf("%d %u ", child.pid(), child.restarts());
    }
    std::printf("ok\n");
    std::fflush(stdout);
  }
}

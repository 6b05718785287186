// Families of devices and tenants, a table row each.
#include <array>

#include "daemon/sight/metrics.h"
#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

using wire::DeviceView;
using wire::NodeDevice;
using wire::Picture;
using wire::TenantView;

constexpr std::uint64_t kUnknown = ~std::uint64_t{0};

struct DeviceRow {
  const char* name;
  const char* help;
  std::uint64_t NodeDevice::*field;
  bool zero_is_unknown;
};
constexpr std::array<DeviceRow, 5> kDeviceRows{{
    {"bulkhead_device_memory_total_bytes", "Memory of the GPU.", &NodeDevice::total_bytes, false},
    {"bulkhead_device_memory_usable_bytes", "What the driver can hand out of it.",
     &NodeDevice::usable_bytes, true},
    {"bulkhead_device_memory_used_bytes", "In use by anybody, as NVML says.",
     &NodeDevice::used_bytes, false},
    {"bulkhead_device_memory_promised_bytes", "Sum of the tenants' limits.",
     &NodeDevice::promised_bytes, false},
    {"bulkhead_device_memory_reserved_bytes", "Kept for the reserve class.",
     &NodeDevice::reserve_bytes, false},
}};

struct MemoryRow {
  const char* name;
  const char* help;
  std::uint64_t DeviceView::*field;
};
constexpr std::array<MemoryRow, 4> kMemoryRows{{
    {"bulkhead_tenant_memory_limit_bytes", "The tenant's quota on the GPU.",
     &DeviceView::limit_bytes},
    {"bulkhead_tenant_memory_used_bytes", "Held by its living processes.", &DeviceView::used_bytes},
    {"bulkhead_tenant_memory_other_bytes", "The part of it that is contexts, modules and heaps.",
     &DeviceView::other_bytes},
    {"bulkhead_tenant_memory_dead_bytes", "Held by processes that ended and are being taken back.",
     &DeviceView::dead_bytes},
}};

struct TimeRow {
  const char* name;
  const char* help;
  std::uint64_t DeviceView::*field;
};
constexpr std::array<TimeRow, 5> kTimeRows{{
    {"bulkhead_tenant_compute_used_seconds",
     "GPU time of a limited tenant, as the library counted it.", &DeviceView::used_ns},
    {"bulkhead_tenant_compute_borrowed_seconds", "The part of it above the share asked.",
     &DeviceView::borrowed_ns},
    {"bulkhead_tenant_compute_forgiven_seconds",
     "GPU time beyond the largest debt: used, and not paid back.", &DeviceView::forgiven_ns},
    {"bulkhead_tenant_compute_held_seconds",
     "Time that the tenant's threads were held, all threads added up.", &DeviceView::held_ns},
    {"bulkhead_tenant_compute_gated_seconds",
     "Time that they were held for latency tenants, all threads added up.", &DeviceView::gated_ns},
}};

struct CountRow {
  const char* name;
  const char* unit;
  const char* help;
  std::uint64_t TenantView::*field;
};
constexpr std::array<CountRow, 7> kCountRows{{
    {"bulkhead_tenant_allocations", "", "Requests for memory that were granted.",
     &TenantView::allocs},
    {"bulkhead_tenant_frees", "", "Returns of memory.", &TenantView::frees},
    {"bulkhead_tenant_refusals", "", "Requests for memory refused by the quota.",
     &TenantView::refused},
    {"bulkhead_tenant_faults", "", "Times the library could not do its work.", &TenantView::faults},
    {"bulkhead_tenant_uncovered_calls", "", "Driver functions asked for that the tables lack.",
     &TenantView::uncovered},
    {"bulkhead_tenant_reaped_processes", "", "Processes taken back after their death.",
     &TenantView::reaped_processes},
    {"bulkhead_tenant_reaped_memory_bytes", "bytes", "Memory they had held.",
     &TenantView::reaped_bytes},
}};

template <class F>
void each_device(const Picture& p, F&& f) {
  for (std::uint32_t t = 0; t < p.tenants; ++t) {
    const TenantView& tenant = p.tenant[t];
    for (std::uint32_t d = 0; d < tenant.device_count; ++d) {
      const std::string uuid = gpu_text(tenant.devices[d].uuid);
      f(Labels{{"gpu_uuid", uuid}, {"tenant", tenant.name}}, tenant.devices[d]);
    }
  }
}

// Seconds of milliseconds, unless nobody measured them.
void seconds_of(Exposition& out, const Picture& p, const char* name, const char* help,
                std::uint64_t DeviceView::*field) {
  out.family(Type::kCounter, name, "seconds", help);
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    if (d.*field != kUnknown) out.sample(labels, static_cast<double>(d.*field) / 1e3);
  });
}

void shares_of(Exposition& out, const Picture& p, const char* name, const char* help,
               std::uint32_t DeviceView::*field, std::uint32_t unknown) {
  out.family(Type::kGauge, name, "ratio", help);
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    if (d.compute_x100 != 0 && d.*field != unknown)
      out.sample(labels, static_cast<double>(d.*field) / 1e4);
  });
}

// What was copied and set, of every tenant: 0 is a figure.
void write_moved(Exposition& out, const Picture& p) {
  constexpr std::array<const char*, 5> kDirections{"to_device", "to_host", "within", "peer", "set"};
  out.family(Type::kCounter, "bulkhead_tenant_moved_bytes", "bytes",
             "Bytes that the tenant's programs copied or set, by direction.");
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    for (std::size_t i = 0; i < kDirections.size(); ++i) {
      out.sample(labels.with({"direction", kDirections[i]}), d.moved_bytes[i]);
    }
  });
}

// How shares are held, and what self-tests saw of each GPU.
void write_modes(Exposition& out, const Picture& p) {
  out.family(Type::kInfo, "bulkhead_tenant_compute_mode", "",
             "How the tenant's share is held: what was asked, what is in force, its MPS group.");
  for (std::uint32_t t = 0; t < p.tenants; ++t) {
    const TenantView& v = p.tenant[t];
    Labels labels{{"tenant", v.name},
                  {"asked", wire::mode_name(v.compute_mode)},
                  {"enforcer", wire::enforcer_name(v.enforcer)}};
    if (v.mps_state != 0) {
      labels = labels.with({"mps_group", v.mps_group})
                   .with({"mps_state", wire::mps_state_name(v.mps_state)});
    }
    out.sample(labels, std::uint64_t{1});
  }
  out.family(
      Type::kGauge, "bulkhead_device_self_test", "",
      "Whether that way of holding a share was seen to work: 1 yes, 0 no. None: not tested.");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    for (unsigned test = 0; test < wire::kSelfTests; ++test) {
      const std::uint32_t seen = wire::seen_of(p.device[i], test);
      if (seen == 0) continue;
      out.sample({{"gpu_uuid", gpu_text(p.device[i].uuid)}, {"test", wire::self_test_name(test)}},
                 std::uint64_t{seen == 1 ? 1u : 0u});
    }
  }
}

// The gate: who goes first, and what that is worth.
void write_gate(Exposition& out, const Picture& p) {
  out.family(Type::kGauge, "bulkhead_tenant_latency_priority", "",
             "1 if others' work waits for the tenant's.");
  for (std::uint32_t t = 0; t < p.tenants; ++t)
    out.sample({{"tenant", p.tenant[t].name}}, std::uint64_t{p.tenant[t].priority});
  out.family(Type::kGauge, "bulkhead_device_gate_bound_seconds", "seconds",
             "The longest a latency tenant's request waits for batch work: longest operation seen, "
             "window, switch.");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    if (p.device[i].gate_bound_us == 0) continue;
    out.sample({{"gpu_uuid", gpu_text(p.device[i].uuid)}},
               static_cast<double>(p.device[i].gate_bound_us) / 1e6);
  }
}

// Only of tenants whose time is, or was, limited: the library counts nobody else's.
void write_time(Exposition& out, const Picture& p) {
  shares_of(out, p, "bulkhead_tenant_compute_share_ratio",
            "Share of the GPU's time that was asked for; 0 to 1. None: no limit.",
            &DeviceView::compute_x100, 0);
  shares_of(out, p, "bulkhead_tenant_compute_ceiling_ratio",
            "The most the tenant may come to by borrowing; 0 to 1.", &DeviceView::ceiling_x100, 0);
  shares_of(out, p, "bulkhead_tenant_compute_delivered_ratio",
            "GPU time used in the last second over that second, as the library counted it; 0 to 1.",
            &DeviceView::delivered_x100, wire::kUnknownShare);
  const auto counted = [](const DeviceView& d) {
    return d.compute_x100 != 0 || d.used_ns != 0 || d.launches != 0;
  };
  for (const TimeRow& row : kTimeRows) {
    out.family(Type::kCounter, row.name, "seconds", row.help);
    each_device(p, [&](const Labels& labels, const DeviceView& d) {
      if (counted(d)) out.sample(labels, static_cast<double>(d.*row.field) / 1e9);
    });
  }
  out.family(Type::kCounter, "bulkhead_tenant_compute_launches", "",
             "Kernels and graphs that a limited tenant launched.");
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    if (counted(d)) out.sample(labels, d.launches);
  });
}

void tenant_state(Exposition& out, const Picture& p, const char* name, const char* help,
                  std::uint32_t flag) {
  out.family(Type::kGauge, name, "", help);
  for (std::uint32_t t = 0; t < p.tenants; ++t) {
    out.sample({{"tenant", p.tenant[t].name}},
               std::uint64_t{(p.tenant[t].flags & flag) != 0 ? 1u : 0u});
  }
}

}  // namespace

void write_devices(Exposition& out, const Picture& p) {
  out.family(Type::kInfo, "bulkhead_device", "", "The GPUs of this node.");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    const NodeDevice& d = p.device[i];
    out.sample({{"gpu_uuid", gpu_text(d.uuid)},
                {"gpu", std::to_string(d.index)},
                {"model", d.name},
                {"mig", (d.flags & 1) != 0 ? "1" : "0"}},
               std::uint64_t{1});
  }
  for (const DeviceRow& row : kDeviceRows) {
    out.family(Type::kGauge, row.name, "bytes", row.help);
    for (std::uint32_t i = 0; i < p.devices; ++i) {
      const std::uint64_t value = p.device[i].*row.field;
      if (value == 0 && row.zero_is_unknown) continue;
      out.sample({{"gpu_uuid", gpu_text(p.device[i].uuid)}}, value);
    }
  }
  out.family(Type::kGauge, "bulkhead_device_utilization_ratio", "ratio",
             "Part of the time in which a kernel ran, as NVML says; 0 to 1.");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    const std::uint32_t x100 = p.device[i].utilisation_x100;
    if (x100 == wire::kUnknownShare) continue;
    out.sample({{"gpu_uuid", gpu_text(p.device[i].uuid)}}, static_cast<double>(x100) / 1e4);
  }
}

void write_tenants(Exposition& out, const Picture& p) {
  for (const MemoryRow& row : kMemoryRows) {
    out.family(Type::kGauge, row.name, "bytes", row.help);
    each_device(p, [&](const Labels& l, const DeviceView& d) { out.sample(l, d.*row.field); });
  }
  out.family(Type::kGauge, "bulkhead_tenant_processes", "",
             "Living processes that hold memory on the GPU.");
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    out.sample(labels, std::uint64_t{d.processes});
  });
  out.family(Type::kGauge, "bulkhead_tenant_utilization_ratio", "ratio",
             "The tenant's part of the GPU's time in the last second; 0 to 1.");
  each_device(p, [&](const Labels& labels, const DeviceView& d) {
    if (d.share_x100 != wire::kUnknownShare)
      out.sample(labels, static_cast<double>(d.share_x100) / 1e4);
  });
  out.family(Type::kCounter, "bulkhead_tenant_memory_byte_seconds", "",
             "Integral of the memory held over time, in bytes times seconds.");
  each_device(
      p, [&](const Labels& labels, const DeviceView& d) { out.sample(labels, d.byte_seconds); });
  seconds_of(out, p, "bulkhead_tenant_held_seconds", "Time in which the tenant held memory.",
             &DeviceView::held_ms);
  seconds_of(out, p, "bulkhead_tenant_gpu_seconds",
             "GPU time used: the library's count while the tenant's time is limited, else NVML's "
             "estimate.",
             &DeviceView::gpu_ms);
  write_time(out, p);
  write_moved(out, p);
  write_gate(out, p);
  write_modes(out, p);
  for (const CountRow& row : kCountRows) {
    out.family(Type::kCounter, row.name, row.unit, row.help);
    for (std::uint32_t t = 0; t < p.tenants; ++t) {
      out.sample({{"tenant", p.tenant[t].name}}, p.tenant[t].*row.field);
    }
  }
  tenant_state(out, p, "bulkhead_tenant_faulty", "1 if the tenant's region cannot be read.",
               wire::kViewFaulty);
  tenant_state(out, p, "bulkhead_tenant_over_limit",
               "1 if the tenant holds more than its limit: growth has stopped.",
               wire::kViewOverLimit);
}

}  // namespace bulkhead::daemon

// Names of other exporters, for dashboards that exist. Only those whose meaning is measured here; off by default, because
// beside the exporter they come from they would count twice.
#include <unistd.h>

#include <array>

#include "daemon/sight/metrics.h"
#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

using wire::DeviceView;
using wire::Picture;
constexpr std::uint64_t kMib = 1u << 20;

template <class F>
void each(const Picture& p, F&& f) {
  for (std::uint32_t t = 0; t < p.tenants; ++t) {
    for (std::uint32_t d = 0; d < p.tenant[t].device_count; ++d) {
      const DeviceView& view = p.tenant[t].devices[d];
      f(Labels{{"deviceuuid", gpu_text(view.uuid)}, {"tenant", p.tenant[t].name}}, view);
    }
  }
}

void tenant_gauge(Exposition& out, const Picture& p, const char* name, const char* help,
                  std::uint64_t DeviceView::*field) {
  out.family(Type::kGauge, name, "", help);
  each(p, [&](const Labels& labels, const DeviceView& d) { out.sample(labels, d.*field); });
}

Labels host_labels(const wire::NodeDevice& d) {
  return Labels{{"deviceidx", std::to_string(d.index)},
                {"deviceuuid", gpu_text(d.uuid)},
                {"devicetype", d.name}};
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

void write_hami(Exposition& out, const Picture& p) {
  tenant_gauge(out, p, "hami_vgpu_memory_used_bytes", "Memory used.", &DeviceView::used_bytes);
  tenant_gauge(out, p, "hami_vgpu_memory_limit_bytes", "Memory limit.", &DeviceView::limit_bytes);
  tenant_gauge(out, p, "vGPU_device_memory_usage_in_bytes", "Memory used (old name).",
               &DeviceView::used_bytes);
  tenant_gauge(out, p, "vGPU_device_memory_limit_in_bytes", "Memory limit (old name).",
               &DeviceView::limit_bytes);
  out.family(Type::kGauge, "hami_container_device_utilization_ratio", "",
             "Part of the GPU's time, 0 to 100.");
  each(p, [&](const Labels& labels, const DeviceView& d) {
    if (d.share_x100 != wire::kUnknownShare)
      out.sample(labels, static_cast<double>(d.share_x100) / 100);
  });
  out.family(Type::kGauge, "HostGPUMemoryUsage", "", "Memory of the GPU in use, bytes.");
  for (std::uint32_t i = 0; i < p.devices; ++i)
    out.sample(host_labels(p.device[i]), p.device[i].used_bytes);
  out.family(Type::kGauge, "HostCoreUtilization", "", "Utilisation of the GPU, 0 to 100.");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    const std::uint32_t x100 = p.device[i].utilisation_x100;
    if (x100 != wire::kUnknownShare)
      out.sample(host_labels(p.device[i]), static_cast<double>(x100) / 100);
  }
}

void write_dcgm(Exposition& out, const Picture& p) {
  const std::string host = host_name();
  const auto labels = [&](const wire::NodeDevice& d) {
    return Labels{{"gpu", std::to_string(d.index)},
                  {"UUID", gpu_text(d.uuid)},
                  {"device", "nvidia" + std::to_string(d.index)},
                  {"modelName", d.name},
                  {"Hostname", host}};
  };
  out.family(Type::kGauge, "DCGM_FI_DEV_GPU_UTIL", "", "GPU utilization (in %).");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    const std::uint32_t x100 = p.device[i].utilisation_x100;
    if (x100 != wire::kUnknownShare)
      out.sample(labels(p.device[i]), static_cast<double>(x100) / 100);
  }
  out.family(Type::kGauge, "DCGM_FI_DEV_FB_USED", "", "Framebuffer memory used (in MiB).");
  for (std::uint32_t i = 0; i < p.devices; ++i)
    out.sample(labels(p.device[i]), p.device[i].used_bytes / kMib);
  out.family(Type::kGauge, "DCGM_FI_DEV_FB_FREE", "", "Framebuffer memory free (in MiB).");
  for (std::uint32_t i = 0; i < p.devices; ++i) {
    const wire::NodeDevice& d = p.device[i];
    const std::uint64_t free_bytes =
        d.used_bytes < d.total_bytes ? d.total_bytes - d.used_bytes : 0;
    out.sample(labels(d), free_bytes / kMib);
  }
}

}  // namespace bulkhead::daemon

// Fills the picture (wire/picture.h, docs/formats/picture.md) once a second, from whoever knows. Control loop only.
#pragma once
#include <functional>
#include <vector>

#include "daemon/duty.h"
#include "daemon/sealed.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

// Unset ones give nothing.
struct PictureProviders {
  std::function<std::vector<wire::TenantView>()> tenants;  // in order of name
  std::function<std::vector<wire::NodeDevice>()> devices;
  std::function<std::vector<wire::StrayView>()> strays;
  std::function<std::vector<wire::EventView>(std::uint64_t after, std::size_t most,
                                             std::uint32_t& lost)>
      events;
  std::function<std::uint64_t()> next_event_id;
  std::function<void(wire::DaemonView&)> daemon;  // all of it but pid, uid, cpu and rss
};

class PictureWriter : public Duty {
 public:
  [[nodiscard]] Status open();
  // For the child: to be opened again read-only.
  [[nodiscard]] int fd() const { return sealed_.fd.get(); }
  int tick(const Now& now) override;
  const char* name() const override { return "picture"; }

  PictureProviders providers;

 private:
  void write(const Now& now);
  Sealed sealed_;
  std::uint64_t next_ns_ = 0;
};

}  // namespace bulkhead::daemon

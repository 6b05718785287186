// TenantRegions: what NVML showed, told to processes that have no supervisor of their own (docs/daemon.md, "What the
// driver took beyond the books"; the rule is gpu::Observation's).
#include <algorithm>

#include "daemon/regions_inside.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSilent_ns = 5'000'000'000;  // a supervisor whose beat stands for longer

}  // namespace

struct TenantRegions::Figure {
  unsigned slot = 0, device = 0;
  HeldRegion::Books books;
  shm::Observed observed;
};

void TenantRegions::tell_samples(const Sample& sample) {
  Uses uses;
  for (const Sample::Use& use : sample.uses) uses.emplace(use.pid, &use);
  const std::uint64_t now_ns = outside_.clock().mono_ns;
  std::vector<Figure> figures;
  for (const auto& [name, tenant] : tenants_) {
    // books that were read after NVML was asked cannot be compared: the next round
    if (tenant->told_broken || tenant->read_ns == 0 || tenant->read_ns > sample.began_ns) continue;
    figures.clear();
    compare(*tenant, uses, now_ns, figures);
    if (!figures.empty()) tell_figures(*tenant, figures, now_ns);
  }
}

// What there is to tell, by the books before the round.
void TenantRegions::compare(Tenant& tenant, const Uses& uses, std::uint64_t now_ns,
                            std::vector<Figure>& out) {
  for (unsigned j = 0; j < tenant.slots.size(); ++j) {
    Slot& slot = tenant.slots[j];
    if (!slot.live || slot.reaped || slot.pid == 0 || !slot.pidfd.ok()) continue;
    const auto [from, to] = uses.equal_range(slot.pid);
    for (auto it = from; it != to; ++it) {
      const Sample::Use& use = *it->second;
      const int d = tenant.region.find(use.uuid.data());
      const auto at = static_cast<std::size_t>(d);
      if (d < 0 || use.start_ticks != slot.start_ticks || at >= slot.books.size()) continue;
      const HeldRegion::Books& books = slot.books[at];
      if (shm::state_of(books.state) != shm::kLive) continue;
      const std::uint64_t apart = books.other + books.unseen;
      const std::uint64_t asked = books.held > apart ? books.held - apart : 0;
      const std::uint64_t beyond =
          slot.seen[at].see(use.bytes, asked, books.other, books.word, now_ns);
      const shm::Observed figure{beyond, books.other};
      const std::uint64_t word = shm::observed_word(figure);
      // Told again until the process has it; and once more when it has, over the figure of before.
      const bool has_it = shm::observed_delta(word, books.other) == 0;
      if (has_it && (slot.told[at] == 0 || slot.told[at] == word)) continue;
      out.push_back({j, static_cast<unsigned>(d), books, figure});
    }
  }
}

// Whose the supervisor's place is. kBeside: somebody's who has not moved for long.
TenantRegions::Place TenantRegions::place_of(Tenant& tenant, std::uint64_t now_ns) {
  if (tenant.region.take_place()) {
    tenant.beat_moved_ns = 0;
    return Place::kTaken;
  }
  const std::uint64_t beat_s = tenant.region.sampler_beat_s();
  if (tenant.beat_moved_ns == 0 || beat_s != tenant.beat_s) {
    tenant.beat_s = beat_s;
    tenant.beat_moved_ns = now_ns;
  }
  return now_ns - tenant.beat_moved_ns > kSilent_ns ? Place::kBeside : Place::kOthers;
}

void TenantRegions::tell_figures(Tenant& tenant, const std::vector<Figure>& figures,
                                 std::uint64_t now_ns) {
  const Place place = place_of(tenant, now_ns);
  if (place == Place::kOthers) return;
  bool whole = true;
  for (const Figure& f : figures) {
    if (tenant.region.books(f.slot, f.device) != f.books) continue;  // they moved meanwhile
    whole = whole && tenant.region.observe(f.slot, f.device, f.observed);
    tenant.slots[f.slot].told[f.device] = shm::observed_word(f.observed);
  }
  if (place == Place::kTaken) {
    whole = whole && tenant.region.end_round();
    tenant.region.leave_place();
  }
  if (!whole || tenant.region.broken()) broken(tenant, "its file was cut short");
}

}  // namespace bulkhead::daemon

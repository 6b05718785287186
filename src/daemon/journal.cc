#include "daemon/journal.h"

#include <algorithm>
#include <cstring>

#include "wire/lines.h"

namespace bulkhead::daemon {
namespace {

template <std::size_t N>
void put(char (&field)[N], const std::string& text) {
  const std::string clean = wire::clean_text(text, N - 1);
  std::memcpy(field, clean.data(), clean.size());
}

}  // namespace

void Journal::post(const Now& now, wire::EventKind kind, const std::string& text,
                   const EventFields& fields) {
  if (EventLimit::limited(kind) &&
      !limit_.admit(now, {kind, fields.uid, fields.tenant}, fields.severity)) {
    return;
  }
  add(now, kind, text, fields);
}

void Journal::settle(const Now& now, bool all) {
  for (const EventLimit::Held& held : limit_.due(now, all)) {
    // The number first: a reader adds it up, and a long line is cut at its end.
    std::string text = "and " + std::to_string(held.count) + " more in " +
                       std::to_string(held.span_ns / 1'000'000'000) + " s";
    if (held.key.tenant.empty()) text += ", of several tenants";
    add(now, held.key.kind, text, {held.severity, held.key.tenant, 0, held.key.uid});
  }
}

void Journal::add(const Now& now, wire::EventKind kind, const std::string& text,
                  const EventFields& fields) {
  wire::EventView event{};
  event.id = next_id_++;
  event.unix_ns = now.unix_ns;
  event.kind = kind;
  event.severity = fields.severity;
  event.pid = fields.pid;
  event.uid = fields.uid;
  event.bytes = fields.bytes;
  if (fields.uuid != nullptr) std::memcpy(event.uuid, fields.uuid, sizeof event.uuid);
  put(event.tenant, fields.tenant);
  put(event.text, text);
  if (kept_.size() == kKept) kept_.pop_front();
  kept_.push_back(event);
}

std::vector<wire::EventView> Journal::after(std::uint64_t after, std::size_t most,
                                            std::uint32_t& lost) const {
  // Ids rise but may have gaps: what an earlier daemon could not write to disk.
  auto first = std::upper_bound(
      kept_.begin(), kept_.end(), after,
      [](std::uint64_t id, const wire::EventView& event) { return id < event.id; });
  const std::uint64_t next = first == kept_.end() ? next_id_ : first->id;
  const std::uint64_t missing = after < next - 1 ? next - 1 - after : 0;
  lost = static_cast<std::uint32_t>(std::min<std::uint64_t>(missing, 0xffff'ffffu));
  const auto room = static_cast<std::size_t>(kept_.end() - first);
  return {first, first + static_cast<std::ptrdiff_t>(std::min(room, most))};
}

void Journal::restore(const std::vector<wire::EventView>& events) {
  // Our own file, but files get damaged: only ids that rise are taken.
  for (const wire::EventView& event : events) {
    if (event.id == ~0ull || (!kept_.empty() && event.id <= kept_.back().id)) continue;
    if (kept_.size() == kKept) kept_.pop_front();
    kept_.push_back(event);
  }
  if (!kept_.empty()) next_id_ = std::max(next_id_, kept_.back().id + 1);
}

}  // namespace bulkhead::daemon

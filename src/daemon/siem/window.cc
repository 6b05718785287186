#include "daemon/siem/window.h"

#include <algorithm>

#include "audit/segment.h"

namespace bulkhead::daemon::siem {

using abi::AuditEntry;
using abi::Decision;
using abi::EntryKind;

bool Window::add(audit::Bytes leaf, Context& context, bool& changed) {
  if (!audit::is_record(leaf)) {
    if (leaf.size() == audit::kEntryBytes) add_entry(audit::entry_of(leaf), context);
    ++next_;
    return true;
  }
  const auto* text = reinterpret_cast<const char*>(leaf.data());
  const auto json = nlohmann::json::parse(text + 1, text + leaf.size(), nullptr, false);
  if (json.is_object()) {
    const std::string kind = text_in(json, "record");
    if (kind == "boot" && next_ != first_) return false;
    if (kind == "session_end")
      ended_.push_back({{"record", kind}, {"serial", number_in(json, "serial")}});
    changed |= context.take(json);
    if (Ocsf::shows(json)) events_.push_back(ocsf_.record(json, next_, checkpoint_, context));
  } else {
    events_.push_back(ocsf_.finding("unreadable", "a record that is no JSON object", next_,
                                    next_ + 1, checkpoint_, 0));
  }
  ++next_;
  return true;
}

void Window::add_entry(const AuditEntry& e, const Context& context) {
  const EntryKind kind = abi::kind_of(e);
  if (kind == EntryKind::kGeometry || kind == EntryKind::kMark) return;
  const Decision decision = abi::decision_of(e);
  const bool plain = decision == Decision::kAllowed || decision == Decision::kObserved;
  if (kind != EntryKind::kTransfer || !plain) {
    events_.push_back(ocsf_.entry(e, next_, checkpoint_, context));
    return;
  }
  SumKey key;
  key.session = e.session;
  key.grant = e.grant;
  key.operation = e.operation;
  key.direction = static_cast<std::uint8_t>(abi::direction_of(e));
  key.decision = static_cast<std::uint8_t>(decision);
  key.source_device = e.source_device;
  key.destination_device = e.destination_device;
  const std::uint64_t utc_ns = e.utc_ns;
  Sum& sum = sums_[key];
  if (sum.count == 0) {
    sum.first_ns = sum.last_ns = utc_ns;
    sum.first_leaf = next_;
  }
  sum.first_ns = std::min(sum.first_ns, utc_ns);
  sum.last_ns = std::max(sum.last_ns, utc_ns);
  sum.last_leaf = next_;
  ++sum.count;
  sum.bytes += abi::bytes_of(e);
}

std::vector<Event> Window::close(Context& context, bool& changed) {
  const std::string prefix = ocsf_.origin().prefix() + "leaves/" + std::to_string(first_) + "-" +
                             std::to_string(next_) + "/";
  std::size_t n = 0;
  for (const auto& [key, sum] : sums_)
    events_.push_back(ocsf_.sum(key, sum, prefix + std::to_string(n++), checkpoint_, context));
  sums_.clear();
  for (const auto& end : ended_) changed |= context.forget(end);
  return std::move(events_);
}

}  // namespace bulkhead::daemon::siem

// Inclusion proofs as one JSON object, and entries in words.
#include <nlohmann/json.hpp>

#include "audit/reader.h"
#include "audit/records.h"

namespace bulkhead::audit {
namespace {

using nlohmann::json;

std::string_view record_text(Bytes entry) {
  return {reinterpret_cast<const char*>(entry.data()) + 1, entry.size() - 1};
}

json words_of(std::uint64_t index, Bytes entry, bool addresses) {
  static constexpr const char* kKinds[] = {"?",       "transfer", "geometry", "map",
                                           "failure", "mark",     "gap"};
  static constexpr const char* kDirections[] = {"none", "h2d", "d2h", "d2d",
                                                "p2p",  "set", "h2h", "unknown"};
  static constexpr const char* kDecisions[] = {"allowed", "denied", "observed", "violation"};
  if (is_record(entry)) {
    const json record = json::parse(record_text(entry), nullptr, false);
    return {{"index", index}, {"record", record.is_discarded() ? json("damaged") : record}};
  }
  if (entry.size() != kEntryBytes) return {{"index", index}, {"damaged", true}};
  const abi::AuditEntry e = entry_of(entry);
  const unsigned kind = e.version_kind & 15;
  const char* const operation = abi::name_of(static_cast<abi::AuditOp>(e.operation));
  json out = {{"index", index},
              {"kind", kind < 7 ? kKinds[kind] : "?"},
              {"operation", operation != nullptr ? operation : ""},
              {"direction", kDirections[e.direction_decision_flags & 7]},
              {"decision", kDecisions[static_cast<unsigned>(abi::decision_of(e))]},
              {"flags", abi::flags_of(e)},
              {"reason", e.reason},
              {"session", std::uint32_t{e.session}},
              {"grant", std::uint32_t{e.grant}},
              {"lane", std::uint16_t{e.lane}},
              {"sequence", abi::sequence_of(e)},
              {"utc_ns", std::uint64_t{e.utc_ns}},
              {"bytes", abi::bytes_of(e)},
              {"source_device", e.source_device},
              {"destination_device", e.destination_device},
              {"stream", std::uint16_t{e.stream}}};
  if (addresses) {
    out["source"] = std::uint64_t{e.source};
    out["destination"] = std::uint64_t{e.destination};
  }
  return out;
}

std::string dump(const json& value, int indent = -1) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

// The entry with its path to the root of `checkpoint`, checked here already. Null: it does not fit.
json part(LogReader& log, std::uint64_t index, const Checkpoint& checkpoint) {
  const auto entry = log.entry(index);
  const auto path = inclusion_proof(log.hashes(), index, checkpoint.size);
  if (!entry || !path ||
      !check_inclusion(index, checkpoint.size, leaf_hash(*entry), *path, checkpoint.root))
    return nullptr;
  json hashes = json::array();
  for (const Hash& h : *path) hashes.push_back(base64(h));
  return {{"index", index}, {"entry", base64(*entry)}, {"path", hashes}};
}

// The last record before `index` that `is_it`; a scan backwards, for one exhibit.
template <class IsIt>
std::optional<std::uint64_t> record_before(LogReader& log, const std::string& origin,
                                           std::uint64_t index, const IsIt& is_it) {
  for (std::uint64_t i = index; i > log.first();) {
    const auto entry = log.entry(--i);
    if (!entry) return std::nullopt;
    if (!is_record(*entry)) continue;
    std::string problem;
    const auto record = parse_record(record_text(*entry), origin, problem);
    if (record && is_it(*record)) return i;
  }
  return std::nullopt;
}

bool check_part(const json& part, const Checkpoint& checkpoint, Buffer& entry) {
  if (!part.is_object() || !part.contains("index") || !part["index"].is_number_unsigned() ||
      !part.contains("entry") || !part["entry"].is_string() || !part.contains("path") ||
      !part["path"].is_array() || part["path"].size() > kMaxLevels)
    return false;
  const auto bytes = from_base64(part["entry"].get<std::string>());
  std::vector<Hash> path;
  for (const json& one : part["path"]) {
    const auto hash = one.is_string() ? hash_from_base64(one.get<std::string>()) : std::nullopt;
    if (!hash) return false;
    path.push_back(*hash);
  }
  if (!bytes) return false;
  entry = *bytes;
  return check_inclusion(part["index"].get<std::uint64_t>(), checkpoint.size, leaf_hash(entry),
                         path, checkpoint.root);
}

}  // namespace

std::string entry_json(std::uint64_t index, Bytes entry, bool addresses) {
  return dump(words_of(index, entry, addresses));
}

Outcome<std::string> make_proof(LogReader& log, const std::string& origin, std::uint64_t index) {
  using Result = Outcome<std::string>;
  const std::string note = log.last_checkpoint(origin);
  std::size_t used = 0;
  const auto parsed = parse_note(note, used);
  const auto checkpoint = parsed ? parse_checkpoint(parsed->text) : std::nullopt;
  if (!checkpoint) return Result::because("there is no signed checkpoint yet");
  if (index < log.first() || index >= checkpoint->size)
    return Result::because("index " + std::to_string(index) + " is not among the entries " +
                           std::to_string(log.first()) + " to " + std::to_string(checkpoint->size) +
                           " that are here and signed");
  json out = part(log, index, *checkpoint);
  if (out.is_null())
    return Result::because(
        "the entry does not fit the signed checkpoint: run bulkhead audit verify");
  const Buffer entry = *log.entry(index);
  out["schema"] = 1;
  out["size"] = checkpoint->size;
  out["checkpoint"] = note;
  out["session"] = out["grant"] = nullptr;
  out["text"] = words_of(index, entry, true);
  const auto add = [&](const char* name, const auto& is_it) {
    const auto at = record_before(log, origin, index, is_it);
    if (at) out[name] = part(log, *at, *checkpoint);
  };
  if (!is_record(entry)) {
    const abi::AuditEntry e = entry_of(entry);
    add("session", [&](const Record& r) {
      const auto* s = std::get_if<SessionRecord>(&r);
      return s != nullptr && s->serial == e.session;
    });
    if (e.grant != 0) {
      add("grant", [&](const Record& r) {
        const auto* g = std::get_if<GrantRecord>(&r);
        return g != nullptr && g->serial == e.grant;
      });
    }
  }
  // The key of the epoch that was due to sign this size (I1).
  std::uint64_t from = checkpoint->size;
  const auto last = record_before(
      log, origin, from, [&](const Record& r) { return std::holds_alternative<KeyRecord>(r); });
  std::string problem;
  if (last && *last + 1 == checkpoint->size) {
    const Buffer key = *log.entry(*last);
    const auto record = parse_record(record_text(key), origin, problem);
    if (record && !std::get<KeyRecord>(*record).by_host) from = *last;
  }
  const auto key = record_before(
      log, origin, from, [](const Record& r) { return std::holds_alternative<KeyRecord>(r); });
  if (key) out["key_record"] = part(log, *key, *checkpoint);
  return dump(out, 1) + "\n";
}

std::string check_proof(const std::string& text, const TrustPolicy& policy, std::string& shown) {
  const json proof = json::parse(text, nullptr, false);
  if (proof.is_discarded() || !proof.is_object()) return "not a JSON object";
  if (!proof.contains("checkpoint") || !proof["checkpoint"].is_string())
    return "no checkpoint in it";
  const std::string note_text = proof["checkpoint"].get<std::string>();
  std::size_t used = 0;
  const auto note = parse_note(note_text, used);
  const auto checkpoint = note ? parse_checkpoint(note->text) : std::nullopt;
  if (!checkpoint || used != note_text.size()) return "its checkpoint is not a signed note";
  if (checkpoint->origin != policy.origin) return "its checkpoint is of another log";
  std::size_t good = 0;
  for (const VerifierKey& key : policy.log) {
    const LineState state = check_note(*note, key);
    if (state == LineState::kBad) return "a signature of its checkpoint is wrong";
    good += state == LineState::kGood;
  }
  if (good == 0) return "its checkpoint has no signature of the log's key";
  std::size_t witnessed = 0;
  for (const VerifierKey& key : policy.witness)
    witnessed += check_note(*note, key) == LineState::kGood;
  if (witnessed < policy.quorum)
    return "its checkpoint lacks the cosignatures that the policy wants";
  Buffer entry;
  if (!check_part(proof, *checkpoint, entry)) return "the entry is not under the signed root";
  for (const char* name : {"session", "grant", "key_record"}) {
    Buffer record;
    if (proof.contains(name) && !proof[name].is_null() &&
        !check_part(proof[name], *checkpoint, record))
      return std::string{"its "} + name + " is not under the signed root";
  }
  shown = entry_json(proof["index"].get<std::uint64_t>(), entry, true);
  return {};
}

}  // namespace bulkhead::audit

#include "audit/records.h"

#include <nlohmann/json.hpp>

#include "abi/audit_entry.h"
#include "audit/base64.h"

namespace bulkhead::audit {
namespace {

using nlohmann::json;

// Reads members; the first that is missing or of another kind makes `problem`.
struct Reader {
  const json& object;
  std::string& problem;

  const json* member(const char* name) {
    const auto it = object.find(name);
    if (it != object.end()) return &*it;
    if (problem.empty()) problem = std::string{"member missing: "} + name;
    return nullptr;
  }
  void bad(const char* name) {
    if (problem.empty()) problem = std::string{"member of another kind or range: "} + name;
  }
  std::uint64_t number(const char* name, std::uint64_t most = INT64_MAX) {
    const json* const v = member(name);
    if (v == nullptr) return 0;
    if (!v->is_number_unsigned() || v->get<std::uint64_t>() > most) {
      bad(name);
      return 0;
    }
    return v->get<std::uint64_t>();
  }
  std::uint32_t serial(const char* name) {
    const auto n = static_cast<std::uint32_t>(number(name, UINT32_MAX));
    if (n == 0) bad(name);
    return n;
  }
  std::int64_t integer(const char* name) {
    const json* const v = member(name);
    if (v == nullptr) return 0;
    if (!v->is_number_integer() ||
        (v->is_number_unsigned() && v->get<std::uint64_t>() > INT64_MAX)) {
      bad(name);
      return 0;
    }
    return v->get<std::int64_t>();
  }
  std::string text(const char* name) {
    const json* const v = member(name);
    if (v == nullptr) return {};
    if (!v->is_string()) {
      bad(name);
      return {};
    }
    return v->get<std::string>();
  }
  std::vector<std::string> texts(const char* name) {
    std::vector<std::string> out;
    const json* const v = member(name);
    if (v == nullptr) return out;
    if (!v->is_array()) bad(name);
    for (const json& one : *v) {
      if (one.is_string()) {
        out.push_back(one.get<std::string>());
      } else {
        bad(name);
      }
    }
    return out;
  }
};

std::uint8_t direction_bit(const std::string& name) {
  static constexpr const char* kNames[] = {"map", "h2d", "d2h", "d2d", "p2p", "set", "h2h"};
  for (unsigned i = 0; i < 7; ++i) {
    if (name == kNames[i]) return static_cast<std::uint8_t>(1u << i);
  }
  return 0;
}

KeyRecord read_key(Reader& r, json object, const std::string& origin) {
  KeyRecord out;
  out.epoch = r.number("epoch");
  out.utc_ns = r.number("utc");
  out.length_s = r.number("length_s", 366ull * 86400);
  const std::string by = r.text("by");
  out.by_host = by == "host";
  if (!out.by_host && by != "epoch") r.bad("by");
  const auto key = hash_from_base64(r.text("public"));
  const auto signature = from_base64(r.text("signature"));
  if (!key) r.bad("public");
  if (!signature || signature->size() != 64) r.bad("signature");
  if (!r.problem.empty()) return out;
  out.public_key = *key;
  out.signature = *signature;
  object.erase("signature");
  out.signed_text = "bulkhead epoch key\n" + origin + "\n" + object.dump();
  return out;
}

SessionEndRecord read_end(Reader& r) {
  SessionEndRecord out;
  out.serial = r.serial("serial");
  const json* const lanes = r.member("lanes");
  if (lanes == nullptr || !lanes->is_array()) {
    r.bad("lanes");
    return out;
  }
  for (const json& lane : *lanes) {
    if (!lane.is_object()) {
      r.bad("lanes");
      continue;
    }
    Reader inner{lane, r.problem};
    const auto number = static_cast<std::uint16_t>(inner.number("lane", 0xffff));
    if (!out.next.emplace(number, inner.number("next")).second) r.bad("lanes");
  }
  return out;
}

GrantRecord read_grant(Reader& r) {
  GrantRecord out;
  out.serial = r.serial("serial");
  out.tenant = r.text("session_tenant");
  out.not_before_s = r.integer("nbf");
  out.expires_s = r.integer("exp");
  for (const std::string& name : r.texts("directions")) {
    const std::uint8_t bit = direction_bit(name);
    if (bit == 0) r.bad("directions");
    out.directions |= bit;
  }
  out.devices = r.texts("devices");
  out.bytes = r.number("bytes");
  return out;
}

ModeRecord read_mode(Reader& r) {
  ModeRecord out;
  out.tenant = r.text("tenant");
  out.utc_ns = r.number("utc");
  const std::string mode = r.text("mode");
  out.mode = mode == "enforce" ? 2 : mode == "observe" ? 1 : 0;
  if (out.mode == 0 && mode != "off") r.bad("mode");
  return out;
}

GapRecord read_gap(Reader& r, const json& object) {
  GapRecord out{r.number("session"), r.number("lane"),  r.number("from"),
                r.number("to"),      r.number("count"), {}};
  if (object.contains("tenant")) out.tenant = r.text("tenant");
  return out;
}

SessionRecord read_session(Reader& r) {
  SessionRecord out;
  out.serial = r.serial("serial");
  out.utc_ns = r.number("utc");
  out.tenant = r.text("tenant");
  out.observe = r.text("mode") == "observe";
  out.devices = r.texts("devices");
  return out;
}

BootRecord read_boot(Reader& r) {
  BootRecord out;
  out.utc_ns = r.number("utc");
  out.boot_id = r.text("boot_id");
  out.origin = r.text("origin");
  out.recovered = r.number("recovered");
  out.cut_bytes = r.number("cut_bytes");
  out.signed_size = r.number("signed");
  out.unknown = r.text("unknown");
  return out;
}

Record read_policy(Reader& r, const json& object) {
  if (object.contains("retained_from")) return RetainedRecord{r.number("retained_from")};
  if (object.contains("revoked_grant"))
    return RevokedRecord{r.serial("revoked_grant"), r.number("utc")};
  return OtherRecord{"policy"};
}

Record read(Reader& r, const json& object, const std::string& origin) {
  const std::string kind = r.text("record");
  if (kind == "boot") return read_boot(r);
  if (kind == "key") return read_key(r, object, origin);
  if (kind == "session") return read_session(r);
  if (kind == "session_end") return read_end(r);
  if (kind == "grant") return read_grant(r);
  if (kind == "clock") return ClockRecord{r.integer("step_ns")};
  if (kind == "policy") return read_policy(r, object);
  if (kind == "mode") return read_mode(r);
  if (kind == "gap") return read_gap(r, object);
  return OtherRecord{kind};
}

json key_object(const KeyRecord& record) {
  return json{{"record", "key"},
              {"epoch", record.epoch},
              {"utc", record.utc_ns},
              {"length_s", record.length_s},
              {"by", record.by_host ? "host" : "epoch"},
              {"public", base64(record.public_key)}};
}

std::string dump(const json& object) {
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::optional<Record> parse_record(std::string_view text, const std::string& origin,
                                   std::string& problem) {
  problem.clear();
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded() || !object.is_object()) {
    problem = "not one JSON object";
    return std::nullopt;
  }
  // One text for one meaning: a second member of the same name, other spaces or another order end here.
  if (dump(object) != text) {
    problem = "not canonical JSON";
    return std::nullopt;
  }
  Reader r{object, problem};
  Record out = read(r, object, origin);
  if (!problem.empty()) return std::nullopt;
  if (auto* grant = std::get_if<GrantRecord>(&out)) grant->text = text;
  return out;
}

std::string boot_json(const BootRecord& b) {
  return dump(json{{"record", "boot"},
                   {"utc", b.utc_ns},
                   {"boot_id", b.boot_id},
                   {"origin", b.origin},
                   {"recovered", b.recovered},
                   {"cut_bytes", b.cut_bytes},
                   {"signed", b.signed_size},
                   {"unknown", b.unknown}});
}

std::string key_signed_text(const KeyRecord& record, const std::string& origin) {
  return "bulkhead epoch key\n" + origin + "\n" + dump(key_object(record));
}

std::string key_json(const KeyRecord& record) {
  json object = key_object(record);
  object["signature"] = base64(record.signature);
  return dump(object);
}

std::string clock_json(std::uint64_t utc_ns, std::int64_t step_ns) {
  return dump(json{{"record", "clock"}, {"utc", utc_ns}, {"step_ns", step_ns}});
}

bool is_writers_own(std::string_view text) {
  std::string problem;
  const auto record = parse_record(text, "", problem);
  return record && (std::holds_alternative<BootRecord>(*record) ||
                    std::holds_alternative<KeyRecord>(*record) ||
                    std::holds_alternative<ClockRecord>(*record) ||
                    std::holds_alternative<RetainedRecord>(*record));
}

std::string retained_json(std::uint64_t from, std::uint64_t utc_ns, const std::string& why) {
  return dump(json{{"record", "policy"}, {"retained_from", from}, {"utc", utc_ns}, {"why", why}});
}

}  // namespace bulkhead::audit

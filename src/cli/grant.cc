#include "cli/grant.h"

#include <fmt/format.h>
#include <time.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/grant_files.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/say.h"
#include "grant/key.h"
#include "grant/token.h"

namespace bulkhead::cli {
namespace {

constexpr std::size_t kMostPem = 16u << 10;

int bad(const std::string& text) { return fail(kExitProblem, text); }

Outcome<grant::Key> load_key(const std::string& path) {
  std::string pem;
  if (const std::string p = read_small(path, kMostPem, pem); !p.empty())
    return Outcome<grant::Key>::because(p);
  auto key = grant::key_from_pem(pem);
  if (!key.ok()) key.problem = path + ": " + key.problem;
  return key;
}

std::string set_of(const std::string& keys) { return "{\"keys\":[" + keys + "]}\n"; }

int keygen(const GrantOptions& o) {
  auto key = grant::new_key();
  if (!key.ok()) return bad(key.problem);
  const std::string kid = grant::thumbprint(*key);
  if (const std::string p = write_small(o.key, grant::to_pem(*key), 0600, true); !p.empty())
    return bad(p + "; a key is never replaced: name another file");
  const std::string jwks = set_of(grant::to_jwk(*key, kid));
  if (o.jwks.empty()) {
    std::fputs(jwks.c_str(), stdout);
    return kExitOk;
  }
  if (const std::string p = write_small(o.jwks, jwks, 0644, true); !p.empty())
    return bad(p + "; join keys with 'bulkhead grant jwks'");
  fmt::print("private key  {}   keep it where the issuer runs, never on a GPU node\n", o.key);
  fmt::print("public key   {}   give it to the nodes: [trust] jwks\n", o.jwks);
  fmt::print("kid          {}\n", kid);
  return kExitOk;
}

std::string fill(const GrantOptions& o, grant::Grant& g) {
  std::uint64_t life_ms = 0;
  if (!parse_wait(o.life, life_ms) || life_ms < 1000 ||
      life_ms / 1000 > static_cast<std::uint64_t>(grant::kMostLife_s))
    return fmt::format("--for '{}' is not a time of 1s to 15m", o.life);
  g.issuer = o.issuer.empty() ? "bulkhead" : o.issuer;
  g.subject = o.subject;
  g.audience = o.audience;
  g.id = grant::new_id();
  g.not_before_s = g.issued_s = ::time(nullptr);
  g.expires_s = g.not_before_s + static_cast<std::int64_t>(life_ms / 1000);
  for (const std::string& a : o.actions) {
    const std::uint8_t bit = grant::action_of(a);
    if (bit == 0) return fmt::format("--actions: '{}' is none of h2d d2h d2d p2p set h2h map", a);
    g.actions |= bit;
  }
  g.locations = o.gpus;
  g.datatypes = o.classes;
  g.bytes = o.bytes;
  if (o.address.empty() != (o.length == 0)) return "--address and --length go together";
  if (o.address.empty()) return {};
  char* end = nullptr;
  g.address = std::strtoull(o.address.c_str(), &end, 16);
  g.length = o.length;
  return *end != '\0' || !o.address.starts_with("0x") ? "--address is written like 0x7f0000000000"
                                                      : std::string{};
}

int issue(const GrantOptions& o) {
  auto key = load_key(o.key);
  if (!key.ok()) return bad(key.problem);
  grant::Grant g;
  if (const std::string p = fill(o, g); !p.empty()) return fail(kExitUsage, p);
  g.kid = grant::thumbprint(*key);
  const std::string token = grant::issue(g, *key);
  // what a node would refuse is not written
  const grant::Verified v = grant::read_unverified(token);
  if (!v.ok()) return fail(kExitUsage, "no node would accept it: " + v.text());
  if (o.out.empty()) {
    fmt::print("{}\n", token);
    return kExitOk;
  }
  if (const std::string p = write_small(o.out, token + "\n", 0600, false); !p.empty())
    return bad(p);
  fmt::print("{}  id {}  until {}\n", o.out, g.id, grant::time_text(g.expires_s));
  return kExitOk;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& p : parts) out += (out.empty() ? "" : ", ") + p;
  return out;
}

const char* in_words(const std::string& action) {
  if (action == "h2d") return "copy from the host to a GPU";
  if (action == "d2h") return "copy from a GPU to the host";
  if (action == "d2d") return "copy within one GPU";
  if (action == "p2p") return "copy between GPUs";
  if (action == "set") return "fill GPU memory";
  if (action == "h2h") return "copy from host to host through the driver";
  return "open ways through which bytes move without a call (shared, registered, managed memory)";
}

void say(const grant::Grant& g, const std::string& signature, std::int64_t now) {
  fmt::print("service      {}\nissuer       {}   key {}\nnode         {}\n", g.subject, g.issuer,
             g.kid, g.audience);
  const std::int64_t left = g.expires_s - now;
  fmt::print("valid        {} to {}   ({})\n", grant::time_text(g.not_before_s),
             grant::time_text(g.expires_s),
             left <= 0              ? "has ended"
             : now < g.not_before_s ? std::string{"not yet"}
                                    : fmt::format("{} s left", left));
  fmt::print("GPUs         {}\ndata         {}\n", joined(g.locations), joined(g.datatypes));
  const char* lead = "may          ";
  for (const char* word : {"h2d", "d2h", "d2d", "p2p", "set", "h2h", "map"}) {
    if ((g.actions & grant::action_of(word)) == 0) continue;
    fmt::print("{}{:<4} {}\n", lead, word, in_words(word));
    lead = "             ";
  }
  if (g.bytes != 0) fmt::print("at most      {} bytes in all\n", g.bytes);
  if (g.length != 0)
    fmt::print("addresses    {:#x} to {:#x}\n", g.address, g.address + g.length - 1);
  fmt::print("id           {}\nsignature    {}\n", g.id, signature);
}

nlohmann::json as_json(const grant::Grant& g, const std::string& signature) {
  return {{"schema", 1},
          {"signature", signature},
          {"kid", g.kid},
          {"iss", g.issuer},
          {"sub", g.subject},
          {"aud", g.audience},
          {"jti", g.id},
          {"nbf", g.not_before_s},
          {"exp", g.expires_s},
          {"actions", grant::actions_text(g.actions, " ")},
          {"locations", g.locations},
          {"datatypes", g.datatypes},
          {"bytes", g.bytes}};
}

int inspect(const GrantOptions& o) {
  std::string token, jwks;
  if (const std::string p = read_token(o.file, token); !p.empty()) return bad(p);
  const grant::Verified v = grant::read_unverified(token);
  if (!v.ok()) return bad(o.file + ": " + v.text());
  std::string signature = "not checked: give --jwks";
  int code = kExitOk;
  const std::int64_t now = ::time(nullptr);
  if (!o.jwks.empty()) {
    if (const std::string p = read_small(o.jwks, grant::kMostJwksBytes, jwks); !p.empty())
      return bad(p);
    auto keys = grant::KeySet::parse(jwks);
    if (!keys.ok()) return bad(o.jwks + ": " + keys.problem);
    const grant::Verified checked = grant::verify(token, *keys, {v.grant.audience, "", "", now});
    signature = checked.ok() ? "good, by key " + v.grant.kid : "REFUSED: " + checked.text();
    code = checked.ok() ? kExitOk : kExitProblem;
  }
  if (o.json) {
    fmt::print("{}\n", as_json(v.grant, signature).dump());
  } else {
    say(v.grant, signature, now);
  }
  return code;
}

int jwks(const GrantOptions& o) {
  nlohmann::json keys = nlohmann::json::array();
  for (const std::string& path : o.files) {
    std::string text;
    if (const std::string p = read_small(path, grant::kMostJwksBytes, text); !p.empty())
      return bad(p);
    if (const auto key = grant::key_from_pem(text); key.ok()) {
      const std::string one = grant::to_jwk(*key.value, grant::thumbprint(*key.value));
      keys.push_back(nlohmann::json::parse(one, nullptr, false));
      continue;
    }
    const auto set = grant::KeySet::parse(text);
    if (!set.ok())
      return bad(path + ": neither a private key in PEM nor a trust file: " + set.problem);
    const auto parsed = nlohmann::json::parse(text, nullptr, false);
    for (const auto& k : parsed["keys"]) keys.push_back(k);
  }
  const std::string text = nlohmann::json{{"keys", keys}}.dump(1) + "\n";
  if (const auto all = grant::KeySet::parse(text); !all.ok())
    return bad("together: " + all.problem);
  if (o.out.empty()) {
    std::fputs(text.c_str(), stdout);
    return kExitOk;
  }
  const std::string p = write_small(o.out, text, 0644, false);
  return p.empty() ? int{kExitOk} : bad(p);
}

// The daemon of this machine's directory; the problem, or "".
std::string reach(std::unique_ptr<Machine>& machine, wire::Client& client) {
  disarm_environment();
  auto made = open_machine(env_or_empty("BULKHEAD_SIM"), Directory::kMayBeMissing);
  if (!made.ok()) return made.problem;
  machine = std::move(*made);
  std::string problem;
  if (machine->dir.fd.ok() && connect_daemon(machine->dir, client, problem) == Daemon::kAnswers)
    return {};
  return "no daemon serves " + machine->directory + (problem.empty() ? "" : " (" + problem + ")") +
         "; grants need bulkheadd";
}

int renew(const GrantOptions& o) {
  std::unique_ptr<Machine> machine;
  wire::Client client;
  std::string token;
  if (const std::string p = read_token(o.file, token); !p.empty()) return bad(p);
  if (const std::string p = reach(machine, client); !p.empty()) return bad(p);
  bool ok = false;
  const std::string text = give_grant(client, o.tenant, token, ok);
  if (!ok) return bad(text);
  fmt::print("{}\n", text);
  return kExitOk;
}

int revoke(const GrantOptions& o) {
  const int named = !o.id.empty() + !o.tenant.empty() + !o.key.empty();
  if (named != 1) return fail(kExitUsage, "say which: --id, --tenant or --kid");
  std::unique_ptr<Machine> machine;
  wire::Client client;
  if (const std::string p = reach(machine, client); !p.empty()) return bad(p);
  wire::RevokeRequest q{};
  q.what = !o.id.empty()       ? wire::RevokeWhat::kId
           : !o.tenant.empty() ? wire::RevokeWhat::kTenant
                               : wire::RevokeWhat::kKey;
  wire::put_text(q.which, (o.id + o.tenant + o.key).c_str());
  wire::Verdict v{};
  const Status s = client.call(wire::Kind::kRevoke, q, v, kDaemonPatience_ms);
  if (!s.ok()) return bad(describe(s));
  if (v.header.result != 0) return bad(v.text);
  fmt::print("{}\n", v.text);
  return kExitOk;
}

}  // namespace

std::string read_token(const std::string& path, std::string& token) {
  if (std::string p = read_small(path, grant::kMostTokenBytes + 1, token); !p.empty()) return p;
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  return token.empty() ? path + ": is empty" : "";
}

int grant(const std::string& which, const GrantOptions& options) {
  if (which == "keygen") return keygen(options);
  if (which == "issue") return issue(options);
  if (which == "inspect") return inspect(options);
  if (which == "jwks") return jwks(options);
  return which == "renew" ? renew(options) : revoke(options);
}

}  // namespace bulkhead::cli

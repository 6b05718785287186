// Row 17. The check of a transfer against its grant, over memory alone (src/shm/grant_table.h): what a thread keeps of a grant, as the
// library checks by it, and a look at its slot; on one hot slot and over all of them, with and without the clock. The whole hook is
// another row's. And what it costs to verify a token once, with the sort of signature that the seeds think cheap beside ours.
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <time.h>

#include <memory>

#include "base/clock.h"
#include "bench/suites.h"
#include "grant/token.h"
#include "shm/grant_table.h"

namespace bulkhead::bench {
namespace {

constexpr unsigned kHandles = shm::kGrantSlots;
static_assert((kHandles & (kHandles - 1)) == 0);
constexpr unsigned kRounds = 1'000'000;
constexpr unsigned kStride = 1617;  // no neighbour after the other, and all of them

// A table whose every slot holds a grant: put_grant() lists 64 at most, and what is measured here is the look at a slot.
struct Filled {
  std::unique_ptr<shm::GrantTable> table = std::make_unique<shm::GrantTable>();
  std::unique_ptr<shm::GrantHandle[]> handles = std::make_unique<shm::GrantHandle[]>(kHandles);
  std::unique_ptr<shm::GrantKept[]> kept = std::make_unique<shm::GrantKept[]>(kHandles);
  bool good = true;
  Filled() {
    const std::uint8_t uuids[1][16] = {{1}};
    shm::format_grants(*table, "bench", uuids, 1);
    for (unsigned i = 0; i < kHandles; ++i) {
      shm::GrantValues v;
      v.not_after_ns = ~0ull;
      v.serial = i + 1;
      v.devices = 1;
      v.directions = 2;
      const auto h = shm::put_grant(*table, v, i * 0x9e3779b97f4a7c15ull);
      handles[i] = *h;
      if ((i + 1) % shm::kMostLivingGrants == 0) forget();
    }
    for (unsigned i = 0; i < kHandles; ++i)
      good = shm::keep_grant(*table, handles[i], kept[i]) && good;
  }
  // Takes the list of the living away and leaves their slots.
  void forget() { table->header.live.store(0, std::memory_order_relaxed); }
};

enum class How { kNothing, kKept, kSlot };

// What one call needs, unknown to the compiler: another transfer each time.
struct Call {
  std::uint32_t directions = 2, devices = 1;
};

template <How kHow, bool kClock>
double ns_a_check(const Filled& f, unsigned mask, bool& good) {
  Call call;
  std::uint32_t serial = 0;
  unsigned at = 0, refused = 0;
  const std::uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);  // ours, whoever else runs here
  for (unsigned i = 0; i < kRounds; ++i) {
    asm volatile("" : "+m"(call) : : "memory");
    const std::uint64_t now = kClock ? clock_ns(CLOCK_MONOTONIC_COARSE) : shm::kAnyTime;
    if constexpr (kHow == How::kKept) {
      const shm::GrantKept& kept = f.kept[at];
      const bool covers = shm::kept_covers(*f.table, kept, call.directions, call.devices) &&
                          (!kClock || shm::kept_is_now(kept, now));
      refused += covers ? 0 : 1;
      serial = kept.serial;
    } else if constexpr (kHow == How::kSlot) {
      shm::GrantNeed need;
      need.directions = static_cast<std::uint8_t>(call.directions);
      need.devices = call.devices;
      need.bytes = need.bytes_here = 4096;
      const auto r = shm::check_grant(*f.table, f.handles[at], need, now, &serial);
      refused += r != abi::DenyReason::kNone ? 1 : 0;
    }
    at = (at + kStride) & mask;
    asm volatile("" : : "r"(serial), "r"(now) : "memory");
  }
  const double ns = static_cast<double>(clock_ns(CLOCK_THREAD_CPUTIME_ID) - began) / kRounds;
  good = good && refused == 0;
  return ns;
}

// ---- once a grant: the signature
struct EvpKey {
  EVP_PKEY* key = nullptr;
  EvpKey() = default;
  EvpKey(const EvpKey&) = delete;
  EvpKey& operator=(const EvpKey&) = delete;
  ~EvpKey() { EVP_PKEY_free(key); }
};

// RS256 over as many bytes as our token signs: the signature alone, without a JWT's parser.
double rs256_us(std::size_t bytes, unsigned rounds) {
  EvpKey rsa;
  rsa.key = EVP_RSA_gen(2048);
  const std::string text(bytes, 'x');
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  std::vector<unsigned char> signature(256);
  std::size_t size = signature.size();
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  bool good = rsa.key != nullptr && context != nullptr &&
              EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, rsa.key) == 1 &&
              EVP_DigestSign(context, signature.data(), &size, data, bytes) == 1;
  const std::uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  for (unsigned i = 0; good && i < rounds; ++i) {
    EVP_MD_CTX_reset(context);
    good = EVP_DigestVerifyInit(context, nullptr, EVP_sha256(), nullptr, rsa.key) == 1 &&
           EVP_DigestVerify(context, signature.data(), size, data, bytes) == 1;
  }
  const double us = static_cast<double>(clock_ns(CLOCK_THREAD_CPUTIME_ID) - began) / rounds / 1000;
  EVP_MD_CTX_free(context);
  return good ? us : 0;
}

struct Token {
  grant::Key key = std::move(*grant::new_key());
  grant::KeySet keys =
      std::move(*grant::KeySet::parse("{\"keys\":[" + grant::to_jwk(key, "k1") + "]}"));
  std::string text;
  grant::Expected expected{"node1", "", "spiffe://firm.example/trade", ::time(nullptr)};
  Token() {
    grant::Grant g;
    g.issuer = "https://issuer.example";
    g.subject = expected.subject;
    g.audience = "node1";
    g.id = grant::new_id();
    g.kid = "k1";
    g.issued_s = g.not_before_s = expected.now_s;
    g.expires_s = expected.now_s + 600;
    g.actions = grant::kH2d | grant::kD2h;
    g.locations = {"GPU-00000000-0000-0000-0000-000000000001"};
    g.datatypes = {"mnpi"};
    text = grant::issue(g, key);
  }
};

// The whole verification as the daemon does it, and the signature alone.
bool es256_us(const Token& t, unsigned rounds, double& whole_us, double& signature_us) {
  bool good = true;
  const std::uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  for (unsigned i = 0; good && i < rounds; ++i)
    good = grant::verify(t.text, t.keys, t.expected).ok();
  const std::uint64_t then = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  const std::string text(t.text.rfind('.'), 'x');
  const std::string signature = grant::sign(t.key, text);
  const std::uint64_t from = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  for (unsigned i = 0; good && i < rounds; ++i) good = grant::verify(t.key, text, signature);
  const std::uint64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  whole_us = static_cast<double>(then - began) / rounds / 1000;
  signature_us = static_cast<double>(end - from) / rounds / 1000;
  return good;
}

}  // namespace

void suite_grant(Bench& b) {
  b.results.begin(17, "grant");
  const Filled f;
  const Token token;
  bool good = f.good;
  const unsigned rounds = b.lab.quick ? 300 : 3000;
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
    const auto add = [&b](const char* name, double ns, const char* goal) {
      b.results.add(name, "a check", "ns", "bulkhead", ns, goal);
    };
    constexpr unsigned kHot = 0, kAll = kHandles - 1;
    add("the loop alone", ns_a_check<How::kNothing, false>(f, kAll, good), "in all below");
    add("kept, one grant, no clock", ns_a_check<How::kKept, false>(f, kHot, good), "goal <= 6 ns");
    add("kept, one grant, expiry", ns_a_check<How::kKept, true>(f, kHot, good), "goal <= 11 ns");
    add("one slot, no clock", ns_a_check<How::kSlot, false>(f, kHot, good), "goal <= 6 ns");
    add("one slot, expiry", ns_a_check<How::kSlot, true>(f, kHot, good), "goal <= 11 ns");
    add("4,096 slots, no clock", ns_a_check<How::kSlot, false>(f, kAll, good), "");
    add("4,096 slots, expiry", ns_a_check<How::kSlot, true>(f, kAll, good), "");
    double whole = 0, signature = 0;
    good = es256_us(token, rounds, whole, signature) && good;
    const double rsa = rs256_us(token.text.rfind('.'), rounds);
    good = good && rsa != 0;
    const auto once = [&b](const char* name, double us) {
      b.results.add(name, "once a grant", "us", "bulkhead", us);
    };
    once("ES256: the token, as the daemon verifies it", whole);
    once("ES256: the signature alone", signature);
    once("RS256 (2048): the signature alone, accepted nowhere", rsa);
  }
  if (!good)
    b.results.failed("one slot, no clock", "bulkhead", "a good handle or token was refused");
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench

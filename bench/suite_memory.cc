// Rows 1, 2 and 4. Variants are interleaved inside each repeat, so that a slow spell of the machine meets all of them.
#include <memory>
#include <string>
#include <utility>

#include "bench/crew.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

struct Call {
  const char* name;
  const char* call;
  std::uint64_t bytes;
  const char* first;   // what histogram 0 times
  const char* second;  // histogram 1; null: nothing
  std::uint64_t n;
};
constexpr Call kCalls[] = {
    {"plain 2 MiB", "alloc", 2u << 20, "cuMemAlloc", "cuMemFree", 4'000},
    {"plain 512 B", "alloc", 512, "cuMemAlloc", "cuMemFree", 10'000},
    {"async 1 MiB", "async", 1u << 20, "cuMemAllocAsync", "cuMemFreeAsync", 20'000},
    {"VMM 2 MiB", "vmm", 2u << 20, "cuMemCreate", "cuMemRelease", 4'000},
    {"info", "info", 0, "cuMemGetInfo", nullptr, 20'000},
};

void add_quantiles(Bench& b, const std::string& name, const char* what, const Variant& v,
                   const Histogram& h) {
  const double rate = ns_per_tick();
  b.results.add(name, std::string(what) + " p50", "ns", v.name, h.quantile(0.5) * rate);
  b.results.add(name, std::string(what) + " p99", "ns", v.name, h.quantile(0.99) * rate);
}

void one_call(Bench& b, const Variant& v, const Call& c) {
  if (!b.lab.asked(c.name)) return;
  const Tenant t = b.lab.make_tenant(8 * kGiB);
  {
    Crew crew(b.lab, v, t);
    Params p;
    p.set("call", c.call);
    p.set("bytes", c.bytes);
    p.set("n", b.lab.quick ? c.n / 4 : c.n);
    crew.start("calls", p);
    if (!crew.all_said(120))
      return b.results.failed(c.name, v.name, crew.error()), b.lab.drop_tenant(t);
    crew.go();
    if (!crew.finish(120))
      return b.results.failed(c.name, v.name, crew.error()), b.lab.drop_tenant(t);
    add_quantiles(b, c.name, c.first, v, crew.block(0).histogram[0]);
    if (c.second != nullptr) add_quantiles(b, c.name, c.second, v, crew.block(0).histogram[1]);
    b.results.add(c.name, c.second != nullptr ? "pair, mean" : "mean", "ns", v.name,
                  crew.block(0).value[0]);
  }
  b.lab.drop_tenant(t);
}

// `n` processes at once, of one tenant or of one each. False: it cannot be done here, and failed() says why.
void contend(Bench& b, const Variant& v, unsigned n, bool one_tenant, bool plain) {
  const std::string name = std::string(plain ? "cuMemAlloc 2 MiB, " : "cuMemAllocAsync 1 MiB, ") +
                           std::to_string(n) +
                           (n == 1       ? " process"
                            : one_tenant ? " processes, one tenant"
                                         : " tenants");
  if (!b.lab.asked(name)) return;
  const std::uint64_t room = b.lab.device_bytes / 10 * 9;
  std::vector<Tenant> tenants;
  for (unsigned i = 0; i < (one_tenant ? 1 : n); ++i)
    tenants.push_back(b.lab.make_tenant(one_tenant ? room : room / n));
  {
    Crew crew(b.lab, v, tenants[0]);
    Params p;
    p.set("plain", plain ? 1 : 0);
    p.set("bytes", plain ? 2u << 20 : 1u << 20);
    p.set("ms", b.lab.quick ? 200 : 1000);
    for (unsigned i = 0; i < n; ++i) crew.start("async", p, tenants[one_tenant ? 0 : i]);
    bool good = crew.all_said(180);
    if (good) crew.go();
    if (!good || !crew.finish(180)) {
      b.results.failed(name, v.name, crew.error());
    } else {
      auto all = std::make_unique<Histogram>();
      for (unsigned i = 0; i < n; ++i) all->merge(crew.block(i).histogram[0]);
      const double rate = ns_per_tick();
      b.results.add(name, "p50", "ns", v.name, all->quantile(0.5) * rate);
      b.results.add(name, "p99", "ns", v.name, all->quantile(0.99) * rate);
      b.results.add(name, "p99.9", "ns", v.name, all->quantile(0.999) * rate);
    }
  }
  for (const Tenant& t : tenants) b.lab.drop_tenant(t);
}

void denied(Bench& b, const Variant& v, unsigned living) {
  // Hundreds of contexts would fill the device; beyond 64 the others have a slot and no context.
  const bool contexts = living <= 64;
  const std::string name = std::to_string(living) + (living == 1 ? " process" : " processes") +
                           (contexts ? " living" : " living, the others without a context");
  if (!b.lab.asked(name)) return;
  const Tenant t = b.lab.make_tenant(b.lab.device_bytes / 10 * 4);
  {
    Crew crew(b.lab, v, t);
    Params p;
    p.set("quota", v.kind == Variant::Kind::kNative ? 0 : t.quota_bytes);
    p.set("n", b.lab.quick ? 2'000 : v.kind == Variant::Kind::kNative ? 200 : 20'000);
    Params member;
    member.set("context", contexts ? 1 : 0);
    for (unsigned i = 1; i < living; ++i) crew.start("member", member);
    const bool members = living == 1 || crew.all_said(180);
    unsigned me = 0;
    if (members) me = crew.start("denied", p);
    if (!members || !crew.said(me, 60)) {
      b.results.failed(name, v.name, crew.error());
    } else {
      crew.go(me);
      Crew& c = crew;
      // The members stay until the measuring one has ended.
      if (!c.said(me, 120) && c.block(me).error[0] != 0) {
        b.results.failed(name, v.name, c.error());
      } else {
        add_quantiles(b, name, "no room left", v, c.block(me).histogram[0]);
        add_quantiles(b, name, "above the limit", v, c.block(me).histogram[1]);
        b.results.add(name, "the counter alone p50", "ns", v.name,
                      c.block(me).histogram[2].quantile(0.5) * ns_per_tick());
        b.results.add(name, "granted after all", "calls", v.name, c.block(me).value[0]);
      }
    }
  }
  b.lab.drop_tenant(t);
}

// 512 contexts do not fit an H200: a simulated GPU of 1 TiB, else like it.
void contend_512(Bench& b) {
  Lab many = simulated_machine(b.lab, "many", 1ull << 40, 543'162'368);
  std::swap(b.lab, many);
  for (const Variant& v : b.lab.variants) contend(b, v, 512, false, false);
  std::swap(b.lab, many);
}

}  // namespace

// What is added to a call, over a driver whose calls cost nothing: the figures of the real driver's calls hide it
// where they take microseconds. Rivals do without: such a driver is not enough for them.
void suite_hook(Bench& b) {
  Lab stub = stub_machine(b.lab);
  std::swap(b.lab, stub);
  std::erase_if(b.lab.variants,
                [](const Variant& v) { return v.kind == Variant::Kind::kRival && v.env.empty(); });
  b.results.begin(1, "hook: added to a call, over a driver that does nothing");
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat)
    for (const Call& c : kCalls) {
      if (c.call == std::string("vmm")) continue;
      for (const Variant& v : b.lab.variants) one_call(b, v, c);
    }
  b.results.print(b.lab, stdout);
  b.results.begin(4, "hook: refused requests, over a driver that does nothing");
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat)
    for (const unsigned n : {1u, 16u, 64u, 256u})
      for (const Variant& v : b.lab.variants)
        if (v.kind != Variant::Kind::kNative) denied(b, v, n);
  b.results.print(b.lab, stdout);
  std::swap(b.lab, stub);
}

void suite_memory(Bench& b) {
  b.results.begin(1, "memory: cost of a call");
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat)
    for (const Call& c : kCalls)
      for (const Variant& v : b.lab.variants) one_call(b, v, c);
  b.results.print(b.lab, stdout);

  b.results.begin(2, "memory: many processes");
  std::vector<unsigned> many = {1, 8};
  if (!b.lab.quick) many.push_back(64);
  const unsigned repeats = b.lab.repeats;
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (const unsigned n : many)
      for (const bool one_tenant : {true, false})
        for (const bool plain : {false, true}) {
          if ((n == 1 && !one_tenant) || (plain && n > 8)) continue;
          for (const Variant& v : b.lab.variants) contend(b, v, n, one_tenant, plain);
        }
  if (!b.lab.sim.empty() && !b.lab.quick) contend_512(b);
  b.results.print(b.lab, stdout);

  b.results.begin(4, "memory: refused requests");
  std::vector<unsigned> living = {1, 16};
  if (!b.lab.quick) living.insert(living.end(), {64, 256});
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (const unsigned n : living)
      for (const Variant& v : b.lab.variants)
        if (v.kind != Variant::Kind::kNative) denied(b, v, n);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench

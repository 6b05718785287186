// What a flood may not do: fill the journal, hide another's event, or vanish from the sums. The clock is the test's.
#include "daemon/event_limit.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "daemon/journal.h"

namespace bulkhead::daemon {
namespace {

using wire::EventKind;
using wire::Severity;
constexpr std::uint64_t kS = 1'000'000'000;

// Variants that must be caught: what they leave out is what the test is for.
struct OneForAll {  // a flood hides everybody's refusals
  EventLimit limit;
  bool admit(const Now& now, EventLimit::Key key, Severity s) {
    key.uid = 0;
    key.tenant = "";
    return limit.admit(now, key, s);
  }
  std::vector<EventLimit::Held> due(const Now& now, bool all) { return limit.due(now, all); }
};
struct Forgets {  // what was kept back is never told
  EventLimit limit;
  bool admit(const Now& now, const EventLimit::Key& key, Severity s) {
    return limit.admit(now, key, s);
  }
  std::vector<EventLimit::Held> due(const Now& now, bool all) {
    auto out = limit.due(now, all);
    if (!all) out.clear();
    return out;
  }
};
struct TrustsNames {  // a limit for each name that a peer makes up is none
  std::map<std::string, EventLimit> limits;
  bool admit(const Now& now, const EventLimit::Key& key, Severity s) {
    return limits[std::to_string(key.uid) + "/" + key.tenant].admit(now, key, s);
  }
  std::vector<EventLimit::Held> due(const Now& now, bool all) {
    std::vector<EventLimit::Held> out;
    for (auto& [name, limit] : limits) {
      for (auto& held : limit.due(now, all)) out.push_back(std::move(held));
    }
    return out;
  }
};

// A hostile uid asks for made-up names, thousands a second, for a minute; others are refused now and then. "" or what went wrong.
template <class Limit>
std::string flood(unsigned seed) {
  Limit limit;
  std::mt19937 random{seed};
  Now now{5 * kS, 5 * kS, 0};
  std::uint64_t reported = 0, told = 0, events = 0;
  std::map<std::uint32_t, std::uint64_t> of_uid, told_of_uid;
  const auto settle = [&](bool all) {
    for (const EventLimit::Held& held : limit.due(now, all)) {
      ++events;
      told += held.count;
      told_of_uid[held.key.uid] += held.count;
    }
  };
  for (int second = 0; second < 60; ++second) {
    for (int i = 0; i < 1000; ++i) {
      const EventLimit::Key key{EventKind::kPeerRefused, 666, "n" + std::to_string(random() % 500)};
      ++reported;
      ++of_uid[666];
      if (limit.admit(now, key, Severity::kWarning)) ++events, ++told, ++told_of_uid[666];
    }
    if (second % 20 == 7) {  // an honest one, once
      ++reported;
      ++of_uid[1000];
      if (!limit.admit(now, {EventKind::kPeerRefused, 1000, "a"}, Severity::kWarning))
        return "another's only refusal was kept back";
      ++events, ++told, ++told_of_uid[1000];
    }
    now.mono_ns += kS;
    settle(false);
  }
  if (told + 10'000 + 1000 < reported) return "what was kept back is not told within its 10 s";
  settle(true);
  if (told != reported) return "the sums are wrong";
  if (told_of_uid != of_uid) return "the sums are another's";
  if (events > 7 * (9 * (EventLimit::kBurst + 1)) + 3) return "the journal is flooded";
  return "";
}

TEST(EventLimit, AFloodIsCountedAndHidesNobody) {
  for (unsigned seed = 1; seed <= 5; ++seed) EXPECT_EQ(flood<EventLimit>(seed), "");
}

TEST(EventLimit, TheBrokenVariantsAreCaught) {
  EXPECT_EQ(flood<OneForAll>(1), "another's only refusal was kept back");
  EXPECT_EQ(flood<Forgets>(1), "what was kept back is not told within its 10 s");
  EXPECT_EQ(flood<TrustsNames>(1), "the journal is flooded");
}

// What was limited before: what is refused. Tenants came and went without a bound.
struct OnlyRefusals {
  EventLimit limit;
  bool admit(const Now& now, const EventLimit::Key& key, Severity s) {
    return EventLimit::burst_of(key.kind) != EventLimit::kBurst || limit.admit(now, key, s);
  }
  std::vector<EventLimit::Held> due(const Now& now, bool all) { return limit.due(now, all); }
};
// One bound for the windows of all kinds: made-up names of one kind take another's place.
struct OneBoundForAllKinds {
  EventLimit limit;
  std::set<std::string> windows;
  bool admit(const Now& now, EventLimit::Key key, Severity s) {
    const std::string mine = std::to_string(static_cast<unsigned>(key.kind)) + "/" +
                             std::to_string(key.uid) + "/" + key.tenant;
    if (!windows.contains(mine) && windows.size() >= EventLimit::kMostWindows)
      key.uid = wire::kNoId, key.tenant = "";
    windows.insert(mine);
    return limit.admit(now, key, s);
  }
  std::vector<EventLimit::Held> due(const Now& now, bool all) {
    windows.clear();
    return limit.due(now, all);
  }
};

// Hostile uids make and remove tenants of made-up names in a loop; others are refused something once in between. "" or what went wrong.
template <class Limit>
std::string come_and_go() {
  Limit limit;
  Now now{5 * kS, 5 * kS, 0};
  std::uint64_t reported = 0, told = 0, events = 0;
  bool hidden = false;
  const auto post = [&](EventKind kind, std::uint32_t uid, const std::string& name) {
    ++reported;
    const bool event = limit.admit(now, {kind, uid, name}, Severity::kInfo);
    if (event) ++events, ++told;
    hidden |= !event && uid >= 1000;
  };
  for (int i = 0; i < 40'000; ++i) {
    const std::uint32_t uid = 600 + static_cast<std::uint32_t>(i % 8);
    post(EventKind::kTenantRegistered, uid, "n" + std::to_string(i));
    post(EventKind::kTenantRemoved, uid, "n" + std::to_string(i));
  }
  for (std::uint32_t uid = 1000; uid < 1020; ++uid) post(EventKind::kPeerRefused, uid, "honest");
  now.mono_ns += EventLimit::kWindow_ns;
  for (const EventLimit::Held& held : limit.due(now, false)) ++events, told += held.count;
  if (told != reported) return "the sums are wrong";
  if (hidden) return "another's only event was kept back";
  const std::uint64_t windows = 2 * (EventLimit::kMostWindows + 9);
  if (events > windows * (EventLimit::kBurstGranted + 1)) return "the journal is flooded";
  return "";
}

TEST(EventLimit, TenantsThatComeAndGoAreCounted) { EXPECT_EQ(come_and_go<EventLimit>(), ""); }

TEST(EventLimit, TheBrokenVariantsOfThoseAreCaught) {
  EXPECT_EQ(come_and_go<OnlyRefusals>(), "the journal is flooded");
  EXPECT_EQ(come_and_go<OneBoundForAllKinds>(), "another's only event was kept back");
}

TEST(EventLimit, ManyUidsShareOneLimitAndNothingIsLost) {
  EventLimit limit;
  const Now now{kS, kS, 0};
  std::uint64_t told = 0;
  for (std::uint32_t uid = 1; uid <= 5000; ++uid) {
    told += limit.admit(now, {EventKind::kPeerRefused, uid, "a"}, Severity::kWarning) ? 1 : 0;
  }
  EXPECT_LE(told, EventLimit::kMostWindows + EventLimit::kBurst);
  for (const auto& held : limit.due(now, true)) told += held.count;
  EXPECT_EQ(told, 5000u);
}

TEST(EventLimit, TheJournalSaysHowManyMore) {
  Journal journal;
  Now now{kS, kS, 0};
  for (int i = 0; i < 316; ++i)
    journal.post(now, EventKind::kPeerRefused, "no", {Severity::kWarning, "a", 77, 1000});
  journal.post(now, EventKind::kProcessEnded, "other kinds are not limited");
  now.mono_ns += EventLimit::kWindow_ns - 1;
  journal.settle(now);
  EXPECT_EQ(journal.next_id(), 6u);  // ids have no gap: a gap says that lines were lost
  now.mono_ns += 1;
  journal.settle(now);
  std::uint32_t lost = 0;
  const auto events = journal.after(0, 100, lost);
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(lost, 0u);
  EXPECT_STREQ(events[5].text, "and 312 more in 10 s");
  EXPECT_STREQ(events[5].tenant, "a");
  EXPECT_EQ(events[5].uid, 1000u);
  EXPECT_EQ(events[5].kind, EventKind::kPeerRefused);
  EXPECT_EQ(events[5].severity, Severity::kWarning);
  journal.settle(now, true);
  EXPECT_EQ(journal.next_id(), 7u);
  journal.post(now, EventKind::kPeerRefused, "no", {Severity::kWarning, "a", 77, 1000});
  EXPECT_EQ(journal.next_id(), 8u);  // a new window
}

}  // namespace
}  // namespace bulkhead::daemon

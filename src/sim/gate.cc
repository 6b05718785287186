#include "sim/gate.h"

#include <pthread.h>
#include <time.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/clock.h"
#include "sim/profile.h"

namespace bulkhead::sim {
namespace {

pthread_mutex_t count_mutex = PTHREAD_MUTEX_INITIALIZER;  // over every gate's `calls`

std::string_view cut(std::string_view& rest, char at) noexcept {
  const std::size_t end = rest.find(at);
  const std::string_view first = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return first;
}

bool number(std::string_view s, std::uint64_t& out) noexcept {
  if (s.empty() || s.size() > 18) return false;
  out = 0;
  for (const char c : s) {
    if (c < '0' || c > '9') return false;
    out = out * 10 + static_cast<unsigned>(c - '0');
  }
  return true;
}

bool names(std::string_view pattern, std::string_view name) noexcept {
  if (!pattern.empty() && pattern.back() == '*') {
    return name.starts_with(pattern.substr(0, pattern.size() - 1));
  }
  return pattern == name;
}

struct Rule {
  std::uint64_t code = 0, after = 0, count = UINT64_MAX, every = 1, delay_us = 0;
  bool fails = false;
};

bool parse(std::string_view text, Rule& r) noexcept {
  while (!text.empty()) {
    std::string_view value = cut(text, ':');
    const std::string_view key = cut(value, '=');
    std::uint64_t n = 0;
    if (!number(value, n)) return false;
    if (key == "code") {
      r.code = n;
      r.fails = true;
    } else if (key == "after") {
      r.after = n;
    } else if (key == "count") {
      r.count = n;
    } else if (key == "every" && n != 0) {
      r.every = n;
    } else if (key == "delay_us") {
      r.delay_us = n;
    } else {
      return false;
    }
  }
  return true;
}

void apply(Gate& g, const Rule& r) noexcept {
  if (g.every != 0) return;  // an earlier rule holds
  g.code = static_cast<std::uint32_t>(r.code);
  g.fails = r.fails;
  g.after = r.after;
  g.count = r.count;
  g.every = r.every;
  g.delay_ns = r.delay_us * 1000;
  g.armed = true;
}

}  // namespace

void arm_gates(Gate* gates, unsigned n, const char* text) noexcept {
  std::string_view rest{text};
  while (!rest.empty()) {
    std::string_view rule = cut(rest, ';');
    if (rule.empty()) continue;
    const std::string_view whole = rule, pattern = cut(rule, ':');
    Rule r;
    if (!parse(rule, r)) {
      std::fprintf(stderr, "bulkhead simulator: BULKHEAD_SIM_FAIL: cannot read \"%.*s\"\n",
                   static_cast<int>(whole.size()), whole.data());
      continue;
    }
    for (unsigned i = 0; i < n; ++i) {
      if (names(pattern, gates[i].name)) apply(gates[i], r);
    }
  }
}

void arm_gates(Gate* gates, unsigned n) noexcept {
  if (const char* text = std::getenv("BULKHEAD_SIM_FAIL")) arm_gates(gates, n, text);
  if (!timed_mode()) return;
  static Profile profile;
  if (load_profile(std::getenv("BULKHEAD_SIM"), profile) != nullptr) return;  // cuInit will say so
  for (unsigned k = 0; k < profile.latencies; ++k) {
    for (unsigned i = 0; i < n; ++i) {
      if (!names(profile.latency[k].name, gates[i].name)) continue;
      gates[i].latency_ns = profile.latency[k].ns;
      gates[i].armed = true;
    }
  }
}

bool blocked(Gate& g, std::uint32_t& code) noexcept {
  if (g.latency_ns != 0) sleep_ns(g.latency_ns);
  if (g.every == 0) return false;
  pthread_mutex_lock(&count_mutex);
  const std::uint64_t call = g.calls++;
  pthread_mutex_unlock(&count_mutex);
  if (call < g.after) return false;
  const std::uint64_t nth = call - g.after;
  if ((nth + 1) % g.every != 0 || nth / g.every >= g.count) return false;
  if (g.delay_ns != 0) sleep_ns(g.delay_ns);
  code = g.code;
  return g.fails;
}

bool timed_mode() noexcept {
  const char* text = std::getenv("BULKHEAD_SIM_TIMED");
  return text != nullptr && text[0] == '1';
}

// Under 100 us a sleep is dominated by the wake-up, so the clock is watched instead.
void sleep_ns(std::uint64_t ns) noexcept {
  const std::uint64_t end = monotonic_ns() + ns;
  if (ns >= 100'000) {
    timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
    while (::nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
  }
  while (monotonic_ns() < end) {
  }
}

}  // namespace bulkhead::sim

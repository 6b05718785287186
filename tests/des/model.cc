#include "tests/des/model.h"

#include <algorithm>

namespace bulkhead::des {
namespace {
constexpr Ns kTick_ns = kMs;
}  // namespace

void Machine::push(Ns when, int kind, std::size_t index, std::uint32_t wake) {
  events_.push({std::max(when, now), order_++, kind, index, wake});
}
void Machine::wake_at(Process& p, Ns when) { push(when, kHost, p.context, ++p.wake); }
void Machine::at(Ns when, std::function<void()> action) {
  actions_.push_back(std::move(action));
  push(when, kAction, actions_.size() - 1);
}

Tenant& Machine::add(const TenantSpec& spec) {
  tenants.push_back(std::make_unique<Tenant>());
  Tenant& t = *tenants.back();
  t.spec = spec;
  t.limit = spec.limit;
  t.given_x100 = t.limit.floor_x100;
  t.rules = pc::make_rules(t.limit.floor_x100, t.limit.burst_ns);
  for (std::size_t i = 0; i < spec.processes; ++i) {
    t.processes.push_back(std::make_unique<Process>());
    Process& p = *t.processes.back();
    p.tenant = &t;
    p.context = processes_.size();
    p.program = spec.program(i);
    p.rng.seed(options_.seed * 7919 + p.context);
    p.streams.resize(spec.streams);
    for (StreamState& s : p.streams) s.row = pc::Row(options_.told_slice_ns);
    device.contexts.emplace_back();
    device.contexts.back().streams.resize(spec.streams);
    processes_.push_back(&p);
    p.idle_since = spec.arrives_ns;
    wake_at(p, spec.arrives_ns + i * 37 * kUs);
  }
  return t;
}

void Machine::set(Tenant& t, const Limit& limit) {
  t.limit = limit;
  t.given_x100 = limit.floor_x100;
  refresh_rate(t, true);
  for (auto& p : t.processes)
    if (p->held_since != 0) wake_at(*p, now);
}

void Machine::run(Ns until) {
  if (now == 0) push(0, kGovern, 0);
  for (;;) {
    const Ns host_at = events_.empty() ? kNever : events_.top().at;
    const Ns device_at = device.next();
    const Ns next = std::min(host_at, device_at);
    if (next > until) break;
    now = std::max(now, next);
    if (device_at <= host_at) {
      device.run_to(now, *this);
      continue;
    }
    device.run_to(now, *this);
    const Event e = events_.top();
    events_.pop();
    if (e.kind == kHost) {
      if (processes_[e.index]->wake == e.wake) host(*processes_[e.index]);
    } else if (e.kind == kTick) {
      tick(*processes_[e.index]);
    } else if (e.kind == kGovern) {
      govern();
    } else {
      actions_[e.index]();
    }
  }
  now = until;
  device.run_to(now, *this);
}

void Machine::retired(std::size_t context, std::size_t stream, const Item& item, Ns at) {
  Process& p = *processes_[context];
  if (item.tag != 0) {
    auto* r = reinterpret_cast<Record*>(item.tag & ~std::uint64_t{1});
    if ((item.tag & 1) == 0) {
      r->start = at;
    } else {
      r->end = at;
      p.streams[stream].last_end = at;
      if (r->next != nullptr) r->next->start = at;
      if (p.streams[stream].last == r) p.streams[stream].last = nullptr;
    }
  }
  if (device.contexts[context].queued == 0) p.idle_since = at;
  if (p.full) {
    p.full = false;
    wake_at(p, at + kUs);
  }
  if (p.syncing && device.contexts[context].queued == 0) {
    p.syncing = false;
    wake_at(p, at + 5 * kUs);
  }
}

void Machine::host(Process& p) {
  if (p.ended) return;
  for (;;) {
    if (!p.has_step) p.step = p.program(now, p.rng);
    p.has_step = false;
    switch (p.step.kind) {
      case Step::kEnd:
        p.ended = true;
        close_all(p);
        return;
      case Step::kThink:
        return wake_at(p, now + p.step.ns);
      case Step::kUntil:
        if (p.step.ns > now) return wake_at(p, p.step.ns);
        continue;
      case Step::kSync:
        close_all(p);
        if (!outstanding(p)) continue;
        p.syncing = true;
        return;
      case Step::kLaunch:
        p.has_step = true;
        if (device.contexts[p.context].streams[p.step.stream].items.size() >=
            p.tenant->spec.depth) {
          p.full = true;
          return;
        }
        if (!gate(p) || !at_rest(p)) return;
        p.has_step = false;
        launch(p);
        return wake_at(p, now + p.tenant->spec.launch_ns);
    }
  }
}

bool Machine::gate(Process& p) {
  Tenant& t = *p.tenant;
  if (!t.limit.limited) return true;
  t.wanted_at = now;
  if (p.in_flight_ns >= t.limit.window_ns) reap(p);
  const bool held = p.held_since != 0;
  const Ns wait = pc::gate_ns(t.tat.load(), now, t.rules, p.in_flight_ns, t.limit.window_ns, held);
  if (wait == 0) {
    if (held) {
      t.held_ns += static_cast<double>(now - p.held_since);
      t.longest_hold_ns = std::max(t.longest_hold_ns, now - p.held_since);
      p.held_since = 0;
    }
    p.hold_steps = 0;
    return true;
  }
  if (!held) {
    p.held_since = now;
    close_for_hold(p, pc::gate_ns(t.tat.load(), now, t.rules, 0, t.limit.window_ns, true));
  }
  const Ns debt_wait = pc::wait_ns(t.tat.load(), now, t.rules);
  t.longest_wait_ns = std::max(t.longest_wait_ns, debt_wait);
  const pc::HoldStep s = pc::hold_step(p.hold_steps++, now, wait);
  t.wanted_at = std::max(t.wanted_at, s.sleep_until);
  if (pc::gate_ns(t.tat.load(), now, t.rules, 0, t.limit.window_ns, true) != 0)
    t.held_at = std::max(now, s.sleep_until);
  wake_at(p, s.sleep_until != 0 ? s.sleep_until + options_.sleep_late_ns : now + 40 * s.pauses);
  return false;
}

// Of a dependent that must not meet an event before it, or of which nothing is known.
bool Machine::at_rest(Process& p) {
  if (!p.tenant->limit.limited || (options_.broken & kBlindToDependents) != 0) return true;
  StreamState& st = p.streams[p.step.stream];
  const pc::Op op{&pc::find_or_add(*p.costs, p.step.key | 1, 4'000), 0, false, p.step.dependent};
  const bool idle = device.contexts[p.context].streams[p.step.stream].items.empty();
  if (idle || !pc::waits_for_rest(st.cut, op, p.tenant->rules.rate_x100 == pc::kWhole_x100) ||
      (st.rest_since != 0 && now - st.rest_since >= 100 * kMs)) {
    st.rest_since = 0;
    return true;
  }
  if (st.rest_since == 0) {
    st.rest_since = now;
    close(p, p.step.stream, true);  // what comes next waits for it, so it parts nobody
  }
  wake_at(p, now + 10 * kUs);
  return false;
}

void Machine::charge(Tenant& t, std::int64_t delta) {
  t.charged_ns += static_cast<double>(delta);
  const bool clamp = (options_.broken & kNoClamp) == 0, hoard = (options_.broken & kHoard) != 0;
  if (clamp && !hoard) {
    t.forgiven_ns += static_cast<double>(pc::settle(t.tat, now, delta, t.rules));
    return;
  }
  std::uint64_t tat = t.tat.load();
  if (!hoard) tat = std::max(tat, now);
  if (tat == 0) tat = 1;
  if (delta >= 0)
    tat += pc::stretched_ns(static_cast<std::uint64_t>(delta), t.rules);
  else
    tat -= std::min(tat, pc::stretched_ns(static_cast<std::uint64_t>(-delta), t.rules));
  t.tat.store(tat);
}

void Machine::launch(Process& p) {
  Tenant& t = *p.tenant;
  const Step& s = p.step;
  Context& c = device.contexts[p.context];
  Stream& q = c.streams[s.stream];
  const bool was_empty = q.items.empty(), fresh = c.queued == 0;
  if (c.queued == 0 && now > p.idle_since) p.empty_ns += now - p.idle_since;
  ++t.launches;
  p.had_work = true;
  const double cost = static_cast<double>(s.ns + device.model.gap_ns);
  Item kernel{cost, static_cast<double>(s.ns) / cost, s.occupancy, 0};
  StreamState& st = p.streams[s.stream];
  if (s.dependent && !was_empty) {
    if (q.items.back().tag == 0)  // right behind its primary
      kernel.left_ns = static_cast<double>(s.ns), kernel.useful = 1;
    else if (std::any_of(q.items.begin(), q.items.end(), [](const Item& i) { return i.tag == 0; }))
      ++parted;
  }
  if (!t.limit.limited) {
    device.push(p.context, s.stream, kernel, now);
    return;
  }
  if (!p.ticking) {
    p.ticking = true;
    push(now + kTick_ns, kTick, p.context);
  }
  t.wanted_at = now;
  pc::CostEntry& e = pc::find_or_add(*p.costs, s.key | 1, 4'000);
  pc::Op op{&e, pc::predict(e, 4'000), pc::count_launch(e)};
  if (options_.broken & kPerLaunch) op.predicted_ns = 100 * kUs;
  if (options_.broken & kNoSettle) op.predicted_ns = 4 * kUs;
  op.dependent = s.dependent;
  const bool blind = s.dependent && (options_.broken & kBlindToDependents) != 0;
  st.cut.dependents = st.cut.dependents || s.dependent;
  const bool drained = !blind && (s.dependent ? q.items.empty() : st.last == nullptr);
  if (s.dependent && !drained) op.alone = false;
  const pc::Cut cut = pc::cut(st.cut, op, drained);
  if (cut.end) close(p, s.stream, !s.dependent && (!st.cut.dependents || !q.items.empty()));
  if (st.open == nullptr && s.dependent && !drained && st.last == nullptr) {  // in no segment
    device.push(p.context, s.stream, kernel, now);
    const Ns alone =
        pc::with_kappa(op.predicted_ns, governor_.clock().shared != 0 ? kappa : pc::kKappaOne);
    t.raw_ns += op.predicted_ns;
    st.queued_until = std::max(st.queued_until, now) + op.predicted_ns;
    st.cut.guarded = false;
    return charge(t, static_cast<std::int64_t>(alone));
  }
  if (cut.begin) {
    p.records.push_back(std::make_unique<Record>());
    Record* r = p.records.back().get();
    r->process = &p;
    r->stream = s.stream;
    pc::begin_segment(st.cut, &r->segment);
    st.open = r;
    r->drained = fresh;
    if (cut.start) {
      device.push(
          p.context, s.stream,
          {static_cast<double>(device.model.stamp_ns), 0, 0, reinterpret_cast<std::uint64_t>(r)},
          now);
      if (was_empty)
        kernel.left_ns += 2'000, kernel.useful = static_cast<double>(s.ns) / kernel.left_ns;
    } else if (st.last != nullptr) {
      st.last->next = r;
    } else {
      r->start = st.last_end;
    }
  }
  device.push(p.context, s.stream, kernel, now);
  const Ns charged =
      pc::with_kappa(op.predicted_ns, governor_.clock().shared != 0 ? kappa : pc::kKappaOne);
  charge(t, static_cast<std::int64_t>(charged));
  pc::add_op(st.cut, op, now, charged);
  st.queued_until = std::max(st.queued_until, now) + op.predicted_ns;
  const Ns window = pc::window_ns_of(op.predicted_ns, e.samples.load() > 0, t.limit.window_ns);
  st.open->window_ns += window;
  if (cut.end_after) close(p, s.stream, true);
}

void Machine::close(Process& p, std::size_t stream, bool tight) {
  StreamState& st = p.streams[stream];
  if (st.open == nullptr) return;
  Record* r = st.open;
  pc::end_segment(st.cut, r->start != 0, tight);
  r->closed = true;
  p.in_flight_ns += r->window_ns;  // what is open is not in it: the bucket alone bounds that
  st.open = nullptr;
  st.last = r;
  device.push(
      p.context, stream,
      {static_cast<double>(device.model.stamp_ns), 0, 0, reinterpret_cast<std::uint64_t>(r) | 1},
      now);
}
void Machine::close_all(Process& p) {
  for (std::size_t i = 0; i < p.streams.size(); ++i) close(p, i, true);
}
void Machine::close_for_hold(Process& p, Ns hold_ns) {
  for (std::size_t i = 0; i < p.streams.size(); ++i) {
    const StreamState& st = p.streams[i];
    const bool blind = st.cut.dependents && (options_.broken & kBlindToDependents) != 0;
    if (!blind && pc::ends_before_hold(st.cut, st.queued_until, now + hold_ns))
      close(p, i, !device.contexts[p.context].streams[i].items.empty());
  }
}

pc::Reading Machine::reading(Process& p, Record& r, Ns end) const {
  pc::Row& row = p.streams[r.stream].row;
  row.begin(p.history, r.start, r.drained);
  return row.read(p.history, end, r.end != 0 ? device.model.stamp_ns : 0);
}

void Machine::settle_one(Process& p, Record& r) {
  Tenant& t = *p.tenant;
  pc::Reading got = reading(p, r, r.end);
  // What was told while it ran is spoken for already.
  got.fresh_ns = p.cover.take(r.start, r.end);
  std::uint64_t cost = pc::cost_ns(r.segment, got, options_.told_slice_ns);
  if (r.segment.raw_ns != 0) {
    got.fresh_ns = got.span_ns;
    cost = pc::cost_ns(r.segment, got, options_.told_slice_ns);
  }
  if (options_.broken & kElapsedCharge) cost = got.elapsed_ns;
  p.streams[r.stream].row.end(p.history, r.end);
  pc::teach(r.segment, got, options_.told_slice_ns);
  t.raw_ns += cost - r.segment.raw_ns;
  if (beside(got)) t.shared_raw_ns += cost - r.segment.raw_ns;
  if (r.segment.raw_ns == 0 && pc::is_short(r.segment, options_.told_slice_ns)) t.short_ns += cost;
  if (options_.broken & (kNoSettle | kPerLaunch)) return;
  const std::uint64_t due = pc::with_kappa(cost, beside(got) ? kappa : pc::kKappaOne);
  charge(t, static_cast<std::int64_t>(due) - static_cast<std::int64_t>(r.segment.charged_ns));
}

void Machine::reap(Process& p) {
  std::vector<Record*> done;
  for (auto& r : p.records) {
    if (!r->closed || r->end == 0) continue;
    p.in_flight_ns -= std::min(p.in_flight_ns, r->window_ns);
    r->window_ns = 0;
    if (p.history.covers(r->end)) done.push_back(r.get());
  }
  if (done.empty()) return;
  std::sort(done.begin(), done.end(), [](Record* a, Record* b) { return a->end < b->end; });
  for (Record* r : done) settle_one(p, *r);
  std::erase_if(p.records, [&](const auto& r) {
    return r->closed && r->end != 0 && p.history.covers(r->end);
  });
}

void Machine::accrue(Process& p) {
  Tenant& t = *p.tenant;
  std::uint64_t seen = 0;  // streams: only the oldest of each runs
  for (auto& r : p.records) {
    const std::uint64_t bit = 1ull << (r->stream % 64);
    if ((seen & bit) != 0) continue;
    seen |= bit;
    if (r->start == 0 || r->end != 0 || !r->closed)
      continue;  // what is open may have pauses inside
    const pc::Reading got = reading(p, *r, now);
    const std::uint64_t cost = pc::running_ns(r->segment, got, options_.told_slice_ns);
    if (cost <= r->segment.raw_ns) continue;
    t.raw_ns += cost - r->segment.raw_ns;
    if (beside(got)) t.shared_raw_ns += cost - r->segment.raw_ns;
    r->segment.raw_ns = cost;
    const std::uint64_t due = pc::with_kappa(cost, beside(got) ? kappa : pc::kKappaOne);
    if (due <= r->segment.charged_ns || options_.broken & (kNoSettle | kPerLaunch)) continue;
    charge(t, static_cast<std::int64_t>(due - r->segment.charged_ns));
    r->segment.charged_ns = due;
  }
}

void Machine::tick(Process& p) {
  Tenant& t = *p.tenant;
  p.history.add(governor_.clock());
  for (std::size_t i = 0; i < p.streams.size(); ++i)
    if (pc::is_quiet(p.streams[i].cut, now) &&
        (!p.streams[i].cut.dependents || device.contexts[p.context].streams[i].items.empty()))
      close(p, i, false);
  reap(p);
  accrue(p);
  p.with_long = std::any_of(p.records.begin(), p.records.end(), [&](const auto& r) {
    return !pc::is_short(r->segment, options_.told_slice_ns);
  });
  if (!outstanding(p) && now > p.idle_since) {
    p.empty_ns += now - p.idle_since;
    p.idle_since = now;
  }
  if (&p == t.processes[0].get()) refresh_rate(t, false);
  push(now + kTick_ns, kTick, p.context);
}

void Machine::refresh_rate(Tenant& t, bool at_once) {
  const std::uint32_t target = t.given_x100;
  const std::uint32_t next =
      at_once ? target : pc::dampened(t.rules.rate_x100, target, t.limit.dampening_x1000);
  if (next == t.rules.rate_x100 && t.rules.burst_ns == t.limit.burst_ns) return;
  const pc::Rules fresh = pc::make_rules(next, t.limit.burst_ns);
  if ((options_.broken & (kForgetfulRate | kHoard)) == 0)
    t.forgiven_ns += static_cast<double>(
        pc::rescale(t.tat, now, t.rules, fresh, t.rules.rate_x100 > t.limit.floor_x100));
  t.rules = fresh;
}

void Machine::govern() {
  sample();
  push(now + kTick_ns, kGovern, 0);
  if (!options_.governor) {
    governor_.rested(now);
    return;
  }
  governor_.begin(now);
  std::vector<Tenant*> who;
  for (auto& t : tenants) {
    if (!t->limit.limited) continue;  // it tells nothing, here as in the product
    for (auto& p : t->processes) {
      governor_.process(p->seen, {outstanding(*p) || p->had_work, p->with_long, p->empty_ns});
      p->had_work = false;
    }
    if (governor_.tenant(t->seen, {t->limit.floor_x100, t->limit.ceiling_x100, t->raw_ns,
                                   t->shared_raw_ns, t->short_ns, t->wanted_at, t->held_at}))
      who.push_back(t.get());
  }
  std::uint32_t rates[pc::kMaxSharers];
  governor_.end(options_.told_loss_x1000, rates);
  if (options_.broken & kNoKappa) governor_.set_kappa(pc::kKappaOne);
  kappa = governor_.kappa();
  for (std::size_t i = 0; i < who.size(); ++i) who[i]->given_x100 = rates[i];
}

void Machine::sample() {
  for (auto& t : tenants) {
    double sum = 0;
    for (auto& p : t->processes) sum += device.contexts[p->context].useful_ns;
    t->useful_at_ms.push_back(sum);
  }
}

}  // namespace bulkhead::des

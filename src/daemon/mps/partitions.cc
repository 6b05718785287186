#include "daemon/mps/partitions.h"

#include <algorithm>
#include <cstring>

#include "base/kill_point.h"
#include "policy/compute_spec.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr const char* kElse = "; or use temporal";

std::string id_of(const shm::PartitionBook& b) {
  const char* const slash = std::strchr(b.value, '/');
  return slash == nullptr ? std::string{} : std::string{slash + 1};
}

std::string gpu_of(const shm::PartitionBook& b) {
  const char* const slash = std::strchr(b.value, '/');
  return slash == nullptr ? std::string{} : std::string{static_cast<const char*>(b.value), slash};
}

template <std::size_t N>
void put(char (&to)[N], const std::string& text) {
  std::size_t n = 0;
  for (const char c : text) {
    if (n + 1 == N) break;
    to[n++] = c >= ' ' && c <= '~' ? c : ' ';
  }
  to[n] = '\0';
}

// What of a GPU is free, and the share that it comes to.
std::string free_text(const policy::PartitionedGpu& g) {
  const std::uint32_t all = g.free_chunks + g.used_chunks;
  std::string out =
      std::to_string(g.free_chunks) + " of its " + std::to_string(all) + " chunks are free";
  if (g.free_chunks == 0) return out + ": end a tenant";
  char share[policy::kShareText];
  return out + ": ask for at most " +
         policy::format_share(policy::share_of_chunks_x100(g.free_chunks, all), false, share);
}

}  // namespace

std::string Partitions::name() const {
  return "MPS group " + group_ + " (uid " + std::to_string(uid_) + ")";
}

const PartitionWant* Partitions::want_of(const std::string& tenant) const {
  const auto at = std::find_if(wants_.begin(), wants_.end(),
                               [&](const PartitionWant& w) { return w.tenant == tenant; });
  return at == wants_.end() ? nullptr : &*at;
}

bool Partitions::ours(const shm::PartitionBook& book) const {
  return book.uid == uid_ && group_ == static_cast<const char*>(book.group);
}

// Whether a tenant is to keep what it has: another size comes when it has no processes.
bool Partitions::wanted_as_is(const std::string& tenant, const shm::PartitionBook& book) const {
  const PartitionWant* want = want_of(tenant);
  return want != nullptr && want->gpu == gpu_of(book) &&
         (want->busy || want->chunks == book.chunks);
}

std::string Partitions::owner_of(const std::string& gpu_part, const std::string& id) const {
  for (const auto& [tenant, book] : books_.all()) {
    if (ours(book) && book.value[0] != '\0' && id_of(book) == id &&
        gpu_of(book).starts_with(gpu_part))
      return tenant;
  }
  return {};
}

Partitions::State Partitions::state(const std::string& tenant) const {
  const shm::PartitionBook* book = books_.of(tenant);
  const bool has = book != nullptr && ours(*book) && book->value[0] != '\0';
  if (has && confirmed_) return State::kReady;
  if (!failed_.empty()) return State::kRefused;
  if (!confirmed_) return State::kPending;  // what stands there is of a control daemon that is gone
  return book != nullptr && ours(*book) && !has ? State::kRefused : State::kPending;
}

int Partitions::tick(const Now& now, const std::vector<PartitionWant>& wants) {
  now_ns_ = now.mono_ns;
  if (wants != wants_) {
    wants_ = wants;
    again_ = true;
    if (failed_.empty()) due_ns_ = 0;
    for (const PartitionWant& w : wants_) {
      if (!failed_.empty() && books_.of(w.tenant) == nullptr) refuse(w, failed_, false);
    }
  }
  if (asking_) return 1000;
  if (!confirmed_ && failed_.empty()) due_ns_ = 0;
  if (now_ns_ >= due_ns_) {
    again_ = false;
    tried_.clear();
    ask();
  }
  if (asking_ || due_ns_ == ~std::uint64_t{0}) return asking_ ? 1000 : -1;
  return due_ns_ > now_ns_ ? static_cast<int>((due_ns_ - now_ns_) / 1'000'000) + 1 : 0;
}

void Partitions::rest(std::uint64_t for_ns) {
  asking_ = false;
  if (again_) return void(due_ns_ = 0);
  due_ns_ = for_ns == 0 ? ~std::uint64_t{0} : now_ns_ + for_ns;
}

// ---- 1: lspart, and nothing without it ------------------------------------------------------------
void Partitions::ask() {
  asking_ = true;
  order_("lspart\n", [this](const MpsReply& r) { took(r); });
}

void Partitions::took(const MpsReply& r) {
  if (!r.ok()) return fail("lspart: " + problem_of(r));
  const policy::PartitionTable table = policy::parse_lspart(r.text);
  if (!table.problem.empty()) return fail(table.problem);
  if (!table.gpus.empty()) {
    started_server_ = false;
    return act(table);
  }
  if (std::exchange(started_server_, true)) {
    started_server_ = false;
    return fail("lspart shows no GPU");
  }
  order_("start_server -uid " + std::to_string(uid_) + "\n", [this](const MpsReply&) { ask(); });
}

void Partitions::fail(const std::string& why) {
  asking_ = false;
  failed_ = why;
  if (!std::exchange(told_failed_, true))
    post_(wire::EventKind::kMpsFailed, wire::Severity::kWarning,
          name() + " hands out no partitions: " + why);
  for (const PartitionWant& w : wants_) {
    const shm::PartitionBook* book = books_.of(w.tenant);
    if (book == nullptr || book->value[0] == '\0') refuse(w, why, false);
  }
  pause_ns_ = pause_ns_ == 0 ? kSecond : std::min(pause_ns_ * 2, kMostPause_ns);
  due_ns_ = now_ns_ + pause_ns_;
}

void Partitions::act(const policy::PartitionTable& table) {
  failed_.clear();
  told_failed_ = false;
  pause_ns_ = 0;
  check_books(table);
  tell_removed(table);
  confirmed_ = true;
  empty_ = std::all_of(table.gpus.begin(), table.gpus.end(),
                       [](const policy::PartitionedGpu& g) { return g.partitions.empty(); });
  settle_added(table);
  if (remove_one(table) || add_one(table)) return;
  // what is not wanted and still there, and who was refused, are looked at again
  bool in_use = false, stays = !refused_ns_.empty();
  for (const policy::PartitionedGpu& g : table.gpus) {
    for (const policy::PartitionRow& p : g.partitions) {
      const std::string owner = owner_of(g.gpu, p.id);
      if (!owner.empty() && wanted_as_is(owner, *books_.of(owner))) continue;
      (p.in_use ? in_use : stays) = true;
    }
  }
  rest(in_use ? kInUseAgain_ns : stays ? kRefusedAgain_ns : 0);
}

// ---- 2: the books against the table ---------------------------------------------------------------
void Partitions::check_books(const policy::PartitionTable& table) {
  std::vector<std::string> gone;
  for (const auto& [tenant, book] : books_.all()) {
    if (!ours(book)) continue;
    if (book.value[0] == '\0') {
      if (want_of(tenant) == nullptr) gone.push_back(tenant);
      continue;
    }
    const policy::PartitionedGpu* g = table.of(gpu_of(book));
    const policy::PartitionRow* p = g == nullptr ? nullptr : policy::partition_of(*g, id_of(book));
    if (p == nullptr || p->chunks != book.chunks || p->sms != book.sms) gone.push_back(tenant);
  }
  for (const std::string& tenant : gone) books_.forget(tenant);
  std::erase_if(refused_ns_, [this](const auto& r) { return want_of(r.first) == nullptr; });
}

void Partitions::tell_removed(const policy::PartitionTable& table) {
  std::erase_if(removing_, [&](const auto& r) {
    for (const policy::PartitionedGpu& g : table.gpus) {
      if (policy::partition_of(g, r.first) != nullptr) return false;
    }
    post_(wire::EventKind::kMpsPartition, wire::Severity::kInfo, r.second);
    return true;
  });
}

// What was added is in the books once it is listed as asked.
void Partitions::settle_added(const policy::PartitionTable& table) {
  if (!added_.empty()) adding_.clear();
  for (const Added& a : std::exchange(added_, {})) {
    const policy::PartitionedGpu* g = table.of(a.want.gpu);
    const policy::PartitionRow* p = g == nullptr ? nullptr : policy::partition_of(*g, a.id);
    const std::uint32_t sms = a.want.chunks * a.want.chunk_sms;
    if (p == nullptr || p->chunks != a.want.chunks || p->sms != sms) {
      refuse(a.want, p == nullptr
                         ? "lspart does not list the partition that was made"
                         : "lspart lists the partition that was made with " +
                               std::to_string(p->chunks) + " chunks, " + std::to_string(p->sms) +
                               " multiprocessors, not " + std::to_string(a.want.chunks) + " and " +
                               std::to_string(sms));
      continue;
    }
    shm::PartitionBook book;
    put(book.value, a.want.gpu + "/" + a.id);
    put(book.group, group_);
    book.uid = uid_;
    book.chunks = p->chunks;
    book.sms = p->sms;
    BH_KILL_POINT("partition.listed");
    if (!books_.keep(a.want.tenant, book)) {
      refuse(a.want, "it cannot be written down in the daemon's directory");
      continue;
    }
    refused_ns_.erase(a.want.tenant);
    post_(wire::EventKind::kMpsPartition, wire::Severity::kInfo,
          name() + ": tenant " + a.want.tenant + " has partition " + a.id + " of " + a.want.gpu +
              ", " + std::to_string(p->chunks) + " chunks, " + std::to_string(p->sms) +
              " multiprocessors");
  }
}

// ---- 3: what nobody wants, and nobody uses --------------------------------------------------------
bool Partitions::remove_one(const policy::PartitionTable& table) {
  for (const policy::PartitionedGpu& g : table.gpus) {
    for (const policy::PartitionRow& p : g.partitions) {
      const std::string owner = owner_of(g.gpu, p.id);
      if (p.in_use || (!owner.empty() && wanted_as_is(owner, *books_.of(owner)))) continue;
      if (!tried_.insert(p.id).second) {  // ordered in this round, and still there
        if (removing_.contains(p.id) && kept_.insert(p.id).second)
          post_(wire::EventKind::kMpsFailed, wire::Severity::kWarning,
                name() + ": partition " + p.id + " could not be removed");
        continue;
      }
      std::string gpu = g.gpu;  // the whole UUID where we know it
      for (const PartitionWant& w : wants_) {
        if (table.of(w.gpu) == &g) gpu = w.gpu;
      }
      if (!owner.empty()) gpu = gpu_of(*books_.of(owner));
      remove(gpu, p.id, owner);
      return true;
    }
  }
  return false;
}

// Out of the books first: nobody is sent to a partition that goes.
void Partitions::remove(const std::string& gpu, const std::string& id, const std::string& of) {
  if (!of.empty()) books_.forget(of);
  BH_KILL_POINT("partition.removing");
  if (!removing_.contains(id))
    removing_[id] = name() + ": partition " + id + " of " + gpu +
                    (of.empty() ? ", which was no tenant's," : ", which was tenant " + of + "'s,") +
                    " is taken away";
  // whether it is gone is the table's to say
  order_("sm_partition rm " + gpu + " " + id + "\n", [this](const MpsReply&) { ask(); });
}

// ---- 4: what is wanted ----------------------------------------------------------------------------
bool Partitions::add_one(const policy::PartitionTable& table) {
  for (const PartitionWant& w : wants_) {
    const shm::PartitionBook* book = books_.of(w.tenant);
    if (book != nullptr && book->value[0] != '\0') continue;
    const auto refused = refused_ns_.find(w.tenant);
    if (refused != refused_ns_.end() && now_ns_ - refused->second < kRefusedAgain_ns) continue;
    const policy::PartitionedGpu* g = table.of(w.gpu);
    if (!w.blocked.empty() || g == nullptr) {
      refuse(w, !w.blocked.empty() ? w.blocked : "lspart does not show " + w.gpu);
      continue;
    }
    BH_KILL_POINT("partition.adding");
    const std::string free = free_text(*g);
    adding_ = w.gpu;
    order_("sm_partition add " + w.gpu + " " + std::to_string(w.chunks) + "\n",
           [this, w, free](const MpsReply& r) {
             BH_KILL_POINT("partition.added");
             const policy::AddedPartition added = policy::parse_added(r.text, w.gpu);
             if (!r.ok() || added.id.empty()) {
               adding_.clear();
               refuse(w, (r.ok() ? added.problem : problem_of(r)) + "; " + free);
             } else {
               added_.push_back({w, added.id});
             }
             ask();
           });
    return true;
  }
  return false;
}

void Partitions::refuse(const PartitionWant& w, const std::string& why, bool tell) {
  const std::string text = "MPS made no partition of " + std::to_string(w.chunks) + " chunks of " +
                           w.gpu + ": " + why + kElse;
  const bool first = refused_ns_.find(w.tenant) == refused_ns_.end();
  refused_ns_[w.tenant] = now_ns_;
  const shm::PartitionBook* has = books_.of(w.tenant);
  shm::PartitionBook book;
  put(book.refused, text);
  put(book.group, group_);
  book.uid = uid_;
  if (has != nullptr && std::strcmp(has->refused, book.refused) == 0) return;
  (void)books_.keep(w.tenant, book);
  if (first && tell)
    post_(wire::EventKind::kMpsFailed, wire::Severity::kWarning,
          name() + ": tenant " + w.tenant + ": " + text);
}

}  // namespace bulkhead::daemon

// Who may do what on a node, and whom a process belongs to (docs/daemon.md, 'Authority'). Pure decisions about what the kernel said of
// a peer; no I/O, any thread. Nothing of a peer's environment comes here.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bulkhead::policy {

inline constexpr std::uint32_t kNobody = 0xffff'ffff;

struct NodeRules {
  std::uint32_t daemon_uid = 0;          // 0: a root daemon
  bool users_may_create = false;         // users: neither root nor the daemon's own
  std::uint64_t max_memory_bytes = 0;    // of all tenants of one uid on one device; 0 = no maximum
  std::uint32_t max_compute_x100 = 0;    // the same in hundredths of a percent
  std::string_view default_tenant = {};  // [policy] unmatched; empty: refuse
};

struct Asker {
  std::uint32_t uid = kNobody;
  std::uint32_t gid = kNobody;
  std::string_view cgroup = {};  // path below the root; empty: unknown
};

// Root, and the user whose daemon it is: they may do everything.
[[nodiscard]] bool is_operator(const Asker& asker, const NodeRules& rules) noexcept;

enum class Rule : std::uint8_t {
  kGranted,
  kNotOwner,  // only its owner and operators may do this
  kUsersMayNotCreate,
  kForOthers,      // only root makes tenants for other users
  kOperatorsOnly,  // a field that only operators set; `field` names it
  kWouldRaise,     // owners only lower; `field` names it
  kOverMaxMemory,
  kOverMaxCompute,
};
struct Ruling {
  Rule rule = Rule::kGranted;
  const char* field = "";
  [[nodiscard]] bool ok() const noexcept { return rule == Rule::kGranted; }
};
// "why; and what to do" in one line.
[[nodiscard]] std::string ruling_text(const Ruling& ruling, std::string_view tenant);

// What a front end asks for beyond limits: each is 0 or empty unless it was set.
struct Wishes {
  std::uint32_t owner_uid = kNobody;
  bool overcommit = false;
  bool open_on_fault = false;
  bool latency_priority = false;
  bool audit = false;
  bool reserve_class = false;
  bool grant_subject = false;
  bool mps_group = false;
  bool match = false;  // would draw other processes in
};
// A user's tenant on one device, with what the other tenants of that uid have there.
struct DeviceWish {
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_x100 = 0;  // 0 = no limit
  std::uint64_t others_memory_bytes = 0;
  std::uint32_t others_compute_x100 = 0;  // 10000 for each without a limit
};
[[nodiscard]] Ruling may_create(const Asker& asker, const NodeRules& rules, const Wishes& wishes,
                                std::span<const DeviceWish> devices) noexcept;
// May a user's tenant have this much? The same sums without the rest.
[[nodiscard]] Ruling within_maxima(const NodeRules& rules, const DeviceWish& device) noexcept;

// Remove, stop, read, join.
[[nodiscard]] Ruling may_handle(const Asker& asker, const NodeRules& rules,
                                std::uint32_t owner_uid) noexcept;
// Reload the configuration, see strays.
[[nodiscard]] Ruling may_operate(const Asker& asker, const NodeRules& rules) noexcept;

struct ComputeLimit {
  std::uint32_t x100 = 0;          // 0 = no limit
  std::uint32_t ceiling_x100 = 0;  // 0 = the whole device
  bool borrow = false;
  // The most of the device's time it can come to.
  [[nodiscard]] std::uint32_t most_x100() const noexcept;
};
// What an update changes, each as before and after; `changes_*` for fields only operators set.
struct DeviceChange {
  std::uint64_t memory_before = 0, memory_after = 0;
  ComputeLimit compute_before{}, compute_after{};
};
struct Changes {
  std::span<const DeviceChange> devices{};
  bool changes_priority = false;
  bool changes_mode = false;
  bool changes_audit = false;
  bool widens_share_with = false;  // a name that was not there
  bool opens_on_fault = false;     // deny to open
  bool widens_pace = false;        // a longer burst or window, another dampening
};
// Operators: anything. The owner: what lowers.
[[nodiscard]] Ruling may_update(const Asker& asker, const NodeRules& rules, std::uint32_t owner_uid,
                                const Changes& changes) noexcept;

// One tenant as far as belonging goes.
struct Claim {
  std::string_view name;
  std::uint32_t owner_uid = kNobody;
  bool by_front_end = false;  // registered by root over the socket; its cgroup outranks all
  std::string_view match_cgroup = {};
  std::uint32_t match_uid = kNobody;
  std::uint32_t match_gid = kNobody;
};
enum class By : std::uint8_t {
  kCgroup,     // 1: its cgroup is registered by a front end
  kMatch,      // 2: the first [[tenant]] whose match fits
  kAsked,      // 3: the name it asked for, which is its own
  kDefault,    // 4: [policy] unmatched
  kNew,        // 3: the name it asked for is nobody's: may_create() decides
  kRefused,    // the name asked for is outranked (`claim` says by whom) or another's (kNone)
  kUnmatched,  // 4: refuse
};
inline constexpr std::size_t kNone = ~std::size_t{0};
struct Belonging {
  By by = By::kUnmatched;
  std::size_t claim = kNone;        // index of the tenant
  bool outranked_by_match = false;  // kRefused: rule 2, else rule 1
};
// `claims`: the configuration's in file order, then the others. `asked` may be empty.
[[nodiscard]] Belonging belongs_to(const Asker& asker, const NodeRules& rules,
                                   std::string_view asked, std::span<const Claim> claims) noexcept;
// Whether `path` is `prefix` or lies below it; an empty prefix holds nothing.
[[nodiscard]] bool cgroup_below(std::string_view path, std::string_view prefix) noexcept;

}  // namespace bulkhead::policy

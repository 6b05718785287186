// The daemon's socket protocol, version 1 (docs/formats/wire.md). One SOCK_SEQPACKET message a request, one or more a
// reply; fixed layout, little endian, at most 64 KiB. Everything received is hostile: parse() checks it once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "wire/audit_view.h"
#include "wire/record.h"
#include "wire/view.h"

namespace bulkhead::wire {

inline constexpr std::uint32_t kMagic = 0x3157'4842;  // "BHW1" in memory order
inline constexpr std::uint16_t kProtocol = 1;
inline constexpr std::size_t kMaxMessage = 64u << 10;
inline constexpr std::uint16_t kReplyBit = 0x8000;
inline constexpr const char* kSocketName = "control.sock";

enum class Kind : std::uint16_t {
  kHello = 1,       // Empty -> HelloReply
  kRegister = 2,    // RegisterRequest -> Verdict (kQueued any number of times, then the last)
  kUnregister = 3,  // NameRequest -> Verdict
  kUpdate = 4,      // UpdateRequest -> Verdict
  kJoin = 5,        // JoinRequest -> Verdict: a process of a tenant reports itself
  kWhoAmI = 6,      // Empty -> Verdict with the tenant the peer belongs to
  kList = 7,        // NameRequest (after this name; "" = from the start) -> ListReply
  kEvents = 8,      // EventsRequest -> EventsReply, once or for as long as it is followed
  kUsage = 9,       // UsageRequest -> UsageReply (more = 1: another follows)
  kReload = 10,     // Empty -> Verdict: read the configuration again; `text` says what waits
  kCondition = 11,  // Empty -> Verdict: `text` says what of the configuration is not in force
  kBeacons =
      12,  // NameRequest (the tenant the peer is of) -> BeaconsReply, with a descriptor an entry
  kLane = 20,        // LaneRequest -> LaneReply, with descriptors: a lane for audit entries
  kGrant = 30,       // GrantRequest -> Verdict: a token for a tenant
  kRevoke = 31,      // RevokeRequest -> Verdict
  kGrantTable = 32,  // NameRequest -> Verdict, with a descriptor: the tenant's grant table
  // rollout of an audit mode (docs/rollout.md)
  kRollout = 55,      // RolloutRequest -> Verdict
  kRolloutShow = 56,  // NameRequest -> RolloutReply
  kAuditState = 60,   // Empty -> AuditReply: only to root and the daemon's own user
};

struct Header {
  std::uint32_t magic;
  std::uint16_t protocol;
  std::uint16_t kind;      // a Kind; replies have kReplyBit
  std::uint32_t bytes;     // of the whole message, this header included
  std::uint32_t sequence;  // chosen by the asker, repeated in replies
  std::uint32_t result;    // replies: an Errc, 0 = ok
  std::uint32_t flags;     // replies: 1 = another message of this reply follows
  std::uint64_t reserved;
};
inline constexpr std::uint32_t kMore = 1;

struct Empty {
  Header header;
};
struct NameRequest {
  Header header;
  char name[kNameBytes];
  std::uint32_t flags;  // kUnregister: 1 = even if processes run
  std::uint32_t reserved;
};
inline constexpr std::uint32_t kForce = 1;

struct RegisterRequest {
  Header header;
  TenantRecord record;
  std::uint64_t wait_ms;  // 0 = do not wait; ~0 = for ever
  std::uint32_t flags;    // kJoinExisting
  std::uint32_t reserved;
};
inline constexpr std::uint32_t kJoinExisting = 1;  // one of this name may exist; its limits stand
inline constexpr std::uint32_t kSameOrRefuse =
    2;  // with it: refuse if `record` asks for other limits

enum UpdateMask : std::uint32_t {
  kSetMemory = 1,
  kSetCompute = 2,
  kSetPriority = 4,
  kSetMode = 8,
  kSetAudit = 16,
  kSetShareWith = 32,
  kSetOnFault = 64,
  kSetPace = 128,  // of burst, window and dampening those that are not 0
};
struct UpdateRequest {
  Header header;
  TenantRecord record;  // name, and the fields named in mask; devices not listed are left alone
  std::uint32_t mask;
  std::uint32_t reserved;
};
struct JoinRequest {
  Header header;
  char name[kNameBytes];
  std::uint32_t slot;
  std::uint32_t generation;
  std::uint32_t pid;  // in its own namespace
  std::uint32_t reserved;
  std::uint64_t start_ticks;
  std::uint64_t pid_namespace;
};
// A process asks for a lane (docs/formats/lane.md).
enum LaneFlag : std::uint32_t {
  kLaneFirst = 1,    // it has none yet: bell, page and the shared lane come, too
  kLaneProbe = 2,    // only whether it would get one; no descriptors
  kLaneEnforce = 4,  // its mode is enforce, else observe
};
struct LaneRequest {
  Header header;
  char name[kNameBytes];  // the tenant
  std::uint32_t flags;
  std::uint32_t device_count;
  std::uint8_t devices[kMaxDevices][kUuidBytes];  // as the process numbers them
};
// The descriptors come in the order of these bits.
enum LaneGiven : std::uint32_t { kGivenBell = 1, kGivenPage = 2, kGivenShared = 4, kGivenOwn = 8 };
inline constexpr unsigned kMostDescriptors = 4;
struct LaneReply {
  Header header;
  std::uint32_t session;
  std::uint32_t lane;   // the number of the own one
  std::uint32_t given;  // LaneGiven
  std::uint32_t reserved;
  char text[160];  // one line: why there is none
};
// A token for a tenant (docs/formats/grant.md). Anyone's that may act for the tenant; it counts for nobody else.
inline constexpr std::size_t kMostTokenBytes = 8192;
struct GrantRequest {
  Header header;
  char name[kNameBytes];
  std::uint32_t token_bytes;  // 1..kMostTokenBytes, zeros behind them
  std::uint32_t reserved;
  char token[kMostTokenBytes];
};
enum class RevokeWhat : std::uint32_t { kId = 0, kKey = 1, kTenant = 2 };
struct RevokeRequest {
  Header header;
  RevokeWhat what;
  std::uint32_t reserved;
  char which[136];  // a jti, a kid, or a tenant's name
};
// Moves a tenant's audit mode step by step, or stops doing so where it is.
enum class RolloutDo : std::uint32_t { kBegin = 0, kStop = 1 };
inline constexpr std::uint32_t kAbortOnGap = 1;
struct RolloutRequest {
  Header header;
  char name[kNameBytes];
  RolloutDo action;
  AuditMode target;     // observe or enforce
  std::uint32_t flags;  // kAbortOnGap
  std::uint32_t reserved;
  std::uint64_t watch_ms;  // each mode for so long
  std::uint64_t p99_ns;    // this and the next two: 0 = not asked for
  std::uint64_t refusals;
  std::uint64_t service_p99_ns;
  char service_file[256];  // absolute; where the service tells its own figure
};
struct RolloutReply {
  Header header;
  char name[kNameBytes];
  std::uint32_t known;  // 1 = there is or was one; else all is 0 but the mode
  std::uint32_t state;  // policy::RolloutState
  AuditMode mode;       // in force
  AuditMode from;       // when it began
  AuditMode target;
  std::uint32_t flags;  // kAbortOnGap; 2: p99 is known; 4: the service's figure is known
  std::int64_t began_unix_ns;
  std::uint64_t watched_ms, watch_ms;  // of the mode in force
  std::uint64_t missed_calls, missed_bytes, refusals, p99_from_ns, p99_to_ns, service_ns;
  char why[256];  // the last step, one line
};
struct AuditReply {
  Header header;
  AuditView view;
  std::uint64_t entries, violations;  // since the daemon's start: taken over; of them not covered
  std::uint64_t waited, refused, unrecorded;  // what the tenants' own words say of full lanes
  std::uint32_t sessions, lanes;
};
struct EventsRequest {
  Header header;
  std::uint64_t after_id;  // ~0: none of the past
  std::uint32_t follow;
  std::uint32_t reserved;
};
struct UsageRequest {
  Header header;
  std::int64_t since_unix_s;
  char after[kNameBytes];
};

struct HelloReply {
  Header header;
  std::uint32_t pid;
  std::uint32_t uid;
  std::uint64_t start_ticks;
  std::uint32_t tenants;
  std::uint32_t flags;  // 1 = its directory's node page outranks everything (root)
  std::uint64_t next_event_id;
  char version[32];
};
// The sum that decided, bytes; all 0 where no sum of memory was made (a sum of shares of time stands in the text).
struct Arithmetic {
  std::uint8_t uuid[kUuidBytes];
  std::uint64_t total_bytes;     // cuDeviceTotalMem
  std::uint64_t reserve_bytes;   // kept for the reserve class
  std::uint64_t overhead_bytes;  // taken by the driver and by processes of no tenant
  std::uint64_t promised_bytes;  // to other tenants
  std::uint64_t asked_bytes;
};
struct Verdict {
  Header header;
  char name[kNameBytes];  // the tenant it is about
  Arithmetic sums;
  std::uint32_t queued;  // 1 = waiting: `place` of `waiting`, another Verdict follows
  std::uint32_t place;   // 1 = next
  std::uint32_t waiting;
  std::uint32_t reserved;
  char text[512];  // one line for a person: why, and the fix; or a note
};
struct ListReply {
  Header header;
  std::uint32_t tenants;
  std::uint32_t devices;
  std::uint32_t strays;  // only to root and the daemon's own user
  std::uint32_t reserved;
  // then NodeDevice[devices], StrayView[strays], TenantView[tenants]; devices and strays only in the first reply
};
struct EventsReply {
  Header header;
  std::uint32_t events;
  std::uint32_t lost;  // events between `after_id` and the first of these that are no longer kept
  // then EventView[events]
};
struct UsageRow {
  char tenant[kNameBytes];
  std::uint8_t uuid[kUuidBytes];
  std::int64_t from_unix_s, to_unix_s;  // what the row covers
  std::uint64_t byte_seconds;
  std::uint64_t held_ms;
  std::uint64_t gpu_ms;      // ~0 = not measured
  std::uint64_t counted_ms;  // the part of it that the library counted; the rest is NVML's estimate
  std::uint64_t moved_bytes;  // ~0 = not measured
  std::uint64_t peak_bytes;
  std::uint64_t refused;
};
struct UsageReply {
  Header header;
  std::uint32_t rows;
  std::uint32_t reserved;
  // then UsageRow[rows]
};
// docs/formats/beacon.md, 'Hand-out'. Entry i is of the i-th descriptor that came with the message (SCM_RIGHTS).
inline constexpr unsigned kMaxBeacons = 32;
inline constexpr unsigned kMostOfAReply = kMaxBeacons;  // descriptors, of any kind of reply
static_assert(kMostDescriptors <= kMostOfAReply);
inline constexpr std::uint32_t kOwnBeacon = 1;  // the peer's own tenant's: it may be written
struct BeaconEntry {
  char name[kNameBytes];
  std::uint32_t flags;
  std::uint32_t device_count;
  std::uint8_t uuids[kMaxDevices][kUuidBytes];  // in the order of the beacon's words
  std::uint32_t share_x100[kMaxDevices];        // of the device's time; 0 = no limit
};
struct BeaconsReply {
  Header header;
  std::uint32_t count;
  std::uint32_t reserved;
  BeaconEntry beacons[kMaxBeacons];
};

static_assert(sizeof(BeaconEntry) == 392 && sizeof(BeaconsReply) == 12'584);
static_assert(sizeof(Header) == 32 && sizeof(NameRequest) == 104 &&
              sizeof(RegisterRequest) == 1680);
static_assert(sizeof(UpdateRequest) == 1672 && sizeof(JoinRequest) == 128 &&
              sizeof(EventsRequest) == 48);
static_assert(sizeof(UsageRequest) == 104 && sizeof(HelloReply) == 96 && sizeof(Verdict) == 680);
static_assert(sizeof(GrantRequest) == 8296 && sizeof(RevokeRequest) == 176);
static_assert(sizeof(RolloutRequest) == 400 && sizeof(RolloutReply) == 448);
static_assert(sizeof(AuditReply) == 1232);
static_assert(sizeof(LaneRequest) == 360 && sizeof(LaneReply) == 208);
static_assert(sizeof(ListReply) == 48 && sizeof(EventsReply) == 40 && sizeof(UsageRow) == 152);

}  // namespace bulkhead::wire

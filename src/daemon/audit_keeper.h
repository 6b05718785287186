// What daemon and keeper say to each other over DIR/keeper.sock: one message a descriptor, SOCK_SEQPACKET, both of one user.
#pragma once
#include <cstdint>

#include "base/fd.h"
#include "base/status.h"
#include "daemon/audit_keep.h"

namespace bulkhead::daemon {

inline constexpr int kKeeperListener = 3;
inline constexpr int kKeeperDirectory =
    kKeeperListener + 1;  // the directory it serves: it ends when that is gone
enum class KeeperOp : std::uint32_t {
  kPut =
      1,  // with a descriptor; of a name that is there already: replaces it. The keeper's answers to kList, too
  kDrop = 2,
  kList = 3,  // every descriptor comes as a kPut, then one kEnd
  kEnd = 4,
};
struct KeeperMessage {
  KeeperOp op = KeeperOp::kEnd;
  char name[kMostKeptName] = {};
};

// `fd` -1: none. kIo.
[[nodiscard]] Status send_with(int socket, const void* data, std::size_t bytes, int fd);
// kNotFound: the other end has closed; kInvalid: not one of these; kIo.
[[nodiscard]] Status receive_with(int socket, KeeperMessage& out, UniqueFd& fd);

}  // namespace bulkhead::daemon

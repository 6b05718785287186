// One connection to the daemon of a directory: `bulkhead`, and the preloaded library's own thread. libc only, no heap; every
// wait has an end. One thread at a time.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "base/fd.h"
#include "base/status.h"
#include "wire/parse.h"

namespace bulkhead::wire {

class Client {
 public:
  Client() noexcept = default;

  // Connects to control.sock below the directory open as `dir_fd`, which the caller has checked (shm/dir.h). The peer
  // must be root or `dir_owner`. kNotFound: no socket, so no daemon; kNotReady: a socket nobody answers at; kUntrusted;
  // kIo. The descriptor is close-on-exec and out of the way of the program's own (64 and up if there is room).
  [[nodiscard]] static Result<Client> connect(int dir_fd, uid_t dir_owner, int timeout_ms) noexcept;

  // Sends one message as it is. kNotReady: the time is up; kIo, the connection is of no use any more.
  [[nodiscard]] Status send(const void* message, std::size_t bytes, int timeout_ms) noexcept;
  // Receives one reply to (kind, sequence), checked, into `buffer` (8-byte aligned). kNotReady: the time is up, ask
  // again; kNotFound: the daemon closed the connection; kInvalid: not a message of the protocol. timeout_ms -1: wait.
  [[nodiscard]] Result<std::size_t> receive(void* buffer, std::size_t room, Kind kind,
                                            std::uint32_t sequence, int timeout_ms) noexcept;
  // The same with descriptors, at most `most` of them, close-on-exec; `count` says how many came.
  [[nodiscard]] Result<std::size_t> receive_with(void* buffer, std::size_t room, Kind kind,
                                                 std::uint32_t sequence, int timeout_ms,
                                                 UniqueFd* fds, unsigned most,
                                                 unsigned& count) noexcept;
  // begin() with the next sequence number, send, and one reply of exactly sizeof(R) bytes. A header-only refusal of the daemon's
  // becomes a Status of its class.
  template <class Q, class R>
  [[nodiscard]] Status call(Kind kind, Q& request, R& reply, int timeout_ms) noexcept {
    begin(request, kind, ++sequence_);
    if (const Status s = send(&request, sizeof request, timeout_ms); !s.ok()) return s;
    const auto got = receive(&reply, sizeof reply, kind, sequence_, timeout_ms);
    if (!got.ok()) return got.status();
    if (*got == sizeof reply) return {};
    return Status{static_cast<Errc>(reply.header.result), 0, "the daemon refused the request"};
  }
  [[nodiscard]] std::uint32_t next_sequence() noexcept { return ++sequence_; }
  [[nodiscard]] std::uint32_t sequence() const noexcept { return sequence_; }
  [[nodiscard]] bool ok() const noexcept { return fd_.ok(); }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void close() noexcept { fd_.reset(); }

 private:
  UniqueFd fd_;
  std::uint32_t sequence_ = 0;
};

}  // namespace bulkhead::wire

// A TCP connection, plain or TLS, that never blocks after it was made. One thread.
#pragma once
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/outcome.h"
#include "daemon/siem/target.h"

struct ssl_ctx_st;
struct ssl_st;

namespace bulkhead::daemon::siem {

// The TLS side of the settings, read once: authorities, client certificate and key. TLS 1.2 or later, the peer is always verified.
class TlsContext {
 public:
  static Outcome<TlsContext> load(const Settings& settings, const Target& target);
  TlsContext() = default;
  TlsContext(TlsContext&& other) noexcept;
  TlsContext& operator=(TlsContext&& other) noexcept;
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();
  [[nodiscard]] ssl_ctx_st* get() const { return context_; }
  [[nodiscard]] const std::string& peer() const { return peer_; }

 private:
  ssl_ctx_st* context_ = nullptr;
  std::string peer_;  // the name or address that its certificate must bear
};

class Stream {
 public:
  // Waits at most timeout_ms for each of name, connection and handshake (names: as long as the resolver does). `tls` null: plain.
  static Outcome<std::unique_ptr<Stream>> connect(const Target& target, const TlsContext* tls,
                                                  int timeout_ms);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  // Bytes taken or given; 0: it would block; -1: over (problem()).
  [[nodiscard]] long write(const char* data, std::size_t n);
  [[nodiscard]] long read(char* data, std::size_t n);
  [[nodiscard]] int fd() const { return fd_.get(); }
  // TLS may have to read before it can write: what poll() waits for then.
  [[nodiscard]] bool write_waits_for_read() const { return wants_read_; }
  [[nodiscard]] bool encrypted() const { return ssl_ != nullptr; }
  // Bytes on the wire (with TLS more than were written here): given to the kernel, and of these acknowledged by the peer's.
  [[nodiscard]] std::uint64_t written() const;
  [[nodiscard]] std::uint64_t acknowledged() const;
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  explicit Stream(UniqueFd fd) : fd_(std::move(fd)) {}
  std::string handshake(const TlsContext& tls, int timeout_ms);
  long over(std::string what) {
    problem_ = std::move(what);
    return -1;
  }
  long tls_result(int result, const char* what);

  UniqueFd fd_;
  ssl_st* ssl_ = nullptr;
  std::uint64_t plain_written_ = 0;
  bool wants_read_ = false;
  std::string problem_;
};

}  // namespace bulkhead::daemon::siem

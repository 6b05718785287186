// A witness (c2sp.org/tlog-witness): cosigns only what continues what it cosigned before, and keeps that before it answers.
// And the other side: asking witnesses, and keeping what they answered.
//
// Claim  of one origin a witness never cosigns two checkpoints that are not of one history.
// Proof  it compares `old` with what it kept, checks the consistency proof from there, and the new checkpoint is on
//        disk (rename, both synced) before the cosignature leaves.
// Price  a sync for each answer; one request at a time.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "audit/files.h"
#include "audit/host_key.h"
#include "audit/reader.h"

namespace bulkhead::audit {

struct WitnessAnswer {
  int status = 200;
  std::string body;
};

class Witness {
 public:
  // `files`: where it keeps its state. `logs`: the Ed25519 and P-256 keys of the logs it knows.
  Witness(Files& files, std::string name, PrivateKey key, std::vector<VerifierKey> logs);
  // The body of POST /add-checkpoint. One thread.
  [[nodiscard]] WitnessAnswer add_checkpoint(std::string_view body, std::uint64_t unix_s);
  [[nodiscard]] std::string vkey() const;
  // What it kept last of an origin; "" if nothing.
  [[nodiscard]] std::string kept(const std::string& origin);

 private:
  Files& files_;
  std::string name_;
  PrivateKey key_;
  std::vector<VerifierKey> logs_;
};

// Serves HTTP/1.1 POST /add-checkpoint on a Unix socket until `stop` says so (asked at least each second). "" or why not.
[[nodiscard]] std::string serve_witness(Witness& witness, const std::string& socket_path,
                                        WallClock& clock, const std::function<bool()>& stop);

// How long a witness is waited for at each step, and what ends the wait at once.
struct Patience {
  int wait_ms = 10'000;
  int cancel_fd = -1;  // readable: give up
};

// Asks one witness to cosign `note`; its lines are added to `note`. Proofs come from `log`. "" or why not.
[[nodiscard]] std::string ask_witness(LogReader& log, const std::string& socket_path, Note& note,
                                      const Patience& patience = {});
// Asks each; what came is appended to `witnessed` and synced. Counts the witnesses that answered. `each`: one text a witness, "" for
// those that answered.
[[nodiscard]] std::string collect_cosignatures(LogReader& log, const std::string& origin,
                                               const std::vector<std::string>& sockets,
                                               std::size_t& answered, const Patience& patience = {},
                                               std::vector<std::string>* each = nullptr);

}  // namespace bulkhead::audit

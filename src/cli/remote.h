// What `run`, `set` and `rm` ask of the daemon.
#pragma once
#include <string>

#include "cli/machine.h"
#include "wire/client.h"

namespace bulkhead::cli {

inline constexpr int kDaemonPatience_ms = 5000;

// kAnswers: `client` is connected. kSilent: `problem` says what is wrong with the socket.
[[nodiscard]] Daemon connect_daemon(const shm::Dir& dir, wire::Client& client,
                                    std::string& problem);
// Registers, and waits in the queue as long as the request says: one line on stderr each time the place changes
// (`quiet`: none; a terminal's line is overwritten). Signals must be blocked (block_signals). Returns 0 with the tenant's
// name in `tenant`, else the exit code: 128 + the signal that ended the waiting, else kExitOurs with `problem`.
[[nodiscard]] int enrol(wire::Client& client, wire::RegisterRequest& request, bool quiet,
                        std::string& tenant, std::string& problem);
// The verdict's line, or what went wrong on the way; "" = granted without a note. `ok` tells which.
[[nodiscard]] std::string ask_verdict(wire::Client& client, wire::Kind kind,
                                      wire::NameRequest& request, bool& ok);
[[nodiscard]] std::string ask_verdict(wire::Client& client, wire::Kind kind,
                                      wire::UpdateRequest& request, bool& ok);
[[nodiscard]] std::string ask_verdict(wire::Client& client, wire::Kind kind, wire::Empty& request,
                                      bool& ok);
// Gives a tenant a grant. The daemon's line; `ok`: it was accepted.
[[nodiscard]] std::string give_grant(wire::Client& client, const std::string& tenant,
                                     const std::string& token, bool& ok);
// The tenant the operator's rules give this process; "" = none.
[[nodiscard]] std::string ask_who(wire::Client& client);
// What of the daemon's configuration is not in force, one line; "" = nothing, no daemon, or an older one. Quiet.
[[nodiscard]] std::string ask_condition(const shm::Dir& dir);
// "" (for ever), 90, 90s, 5m, 2h, in milliseconds. False: none of them.
[[nodiscard]] bool parse_wait(const std::string& text, std::uint64_t& ms);

}  // namespace bulkhead::cli

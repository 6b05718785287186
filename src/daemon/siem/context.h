// What entries refer to: sessions and grants, from the log's own records. Kept beside the position, so that an exporter that
// starts in the middle of the log knows who a session was.
//
// What is dropped and when follows from the log alone: the same leaves always give the same names.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bulkhead::daemon::siem {

struct SessionInfo {
  std::string tenant, exe;
  std::int64_t pid = 0, uid = -1;
  std::vector<std::string> devices;
};
struct GrantInfo {
  std::string tenant, subject, id;
  std::vector<std::string> datatypes;
  std::int64_t expires_s = 0;
};

class Context {
 public:
  static constexpr std::size_t kMost = 65'536;  // of each: the oldest goes

  // A record of the log, parsed. True: something is known now that was not, or the other way round.
  bool take(const nlohmann::json& record);
  // After the record of a session's end was shown: it has no entries any more.
  bool forget(const nlohmann::json& record);
  [[nodiscard]] const SessionInfo* session(std::uint32_t serial) const;
  [[nodiscard]] const GrantInfo* grant(std::uint32_t serial) const;
  [[nodiscard]] std::string text() const;
  static std::optional<Context> of(std::string_view text);

 private:
  bool expire(std::int64_t utc_s);
  std::string boot_id_;
  std::map<std::uint32_t, SessionInfo> sessions_;
  std::map<std::uint32_t, GrantInfo> grants_;
};

// Members of a record that may hold anything: "" or 0 where there is no such text or number; texts are cut.
[[nodiscard]] std::string text_in(const nlohmann::json& j, const char* key, std::size_t most = 255);
[[nodiscard]] std::int64_t number_in(const nlohmann::json& j, const char* key);
[[nodiscard]] std::vector<std::string> texts_in(const nlohmann::json& j, const char* key,
                                                std::size_t most);

}  // namespace bulkhead::daemon::siem

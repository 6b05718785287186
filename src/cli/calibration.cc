#include "cli/calibration.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "cli/install.h"

namespace bulkhead::cli {
namespace {

constexpr int kSchema = 1;
constexpr off_t kLargest = 1 << 20;  // a file over this is not ours
using nlohmann::json;

std::string text_of(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string{};
}
std::uint64_t number_of(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number_unsigned() ? at->get<std::uint64_t>() : 0;
}

std::string read_file(const std::string& path) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > kLargest) {
    return {};
  }
  std::string text(static_cast<std::size_t>(st.st_size), '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

}  // namespace

std::string calibration_to_json(const std::vector<Calibration>& all) {
  json gpus = json::array();
  for (const Calibration& c : all) {
    gpus.push_back({{"uuid", c.uuid},
                    {"driver", c.driver},
                    {"name", c.name},
                    {"measured", c.measured},
                    {"total_bytes", c.total_bytes},
                    {"context_bytes", c.facts.context_bytes},
                    {"extra_context_bytes", c.facts.extra_context_bytes},
                    {"alloc_granularity", c.facts.alloc_granularity},
                    {"small_slab_bytes", c.facts.small_slab_bytes},
                    {"array_granularity", c.facts.array_granularity},
                    {"pool_granularity", c.facts.pool_granularity},
                    {"vmm_granularity", c.vmm_granularity}});
  }
  // Names of GPUs come from a driver: what is no UTF-8 is replaced, never thrown about.
  return json{{"schema", kSchema}, {"gpus", gpus}}.dump(2, ' ', false,
                                                        json::error_handler_t::replace) +
         "\n";
}

std::vector<Calibration> calibration_from_json(const std::string& text) {
  const json all = json::parse(text, nullptr, false);
  std::vector<Calibration> out;
  if (!all.is_object() || number_of(all, "schema") != kSchema) return out;
  const auto gpus = all.find("gpus");
  if (gpus == all.end() || !gpus->is_array()) return out;
  for (const json& g : *gpus) {
    if (!g.is_object()) continue;
    Calibration c{text_of(g, "uuid"),
                  text_of(g, "driver"),
                  text_of(g, "name"),
                  text_of(g, "measured"),
                  number_of(g, "total_bytes"),
                  number_of(g, "vmm_granularity"),
                  {}};
    c.facts = {number_of(g, "context_bytes"),     number_of(g, "extra_context_bytes"),
               number_of(g, "alloc_granularity"), number_of(g, "small_slab_bytes"),
               number_of(g, "array_granularity"), number_of(g, "pool_granularity")};
    if (c.total_bytes != 0 && !c.uuid.empty()) out.push_back(std::move(c));
  }
  return out;
}

std::vector<Calibration> load_calibration(const std::string& directory) {
  return directory.empty() ? std::vector<Calibration>{}
                           : calibration_from_json(read_file(directory + "/charge.json"));
}

std::string keep_calibration(const std::string& directory, const std::vector<Calibration>& fresh) {
  if (directory.empty()) return "no state directory: set XDG_STATE_HOME or HOME";
  if (!make_directories(directory)) return fmt::format("{}: {}", directory, std::strerror(errno));
  std::vector<Calibration> all = load_calibration(directory);
  std::erase_if(all, [&](const Calibration& old) {
    return find_calibration(fresh, old.uuid, old.driver) != nullptr;
  });
  all.insert(all.end(), fresh.begin(), fresh.end());
  const std::string text = calibration_to_json(all);
  std::string temporary = directory + "/.charge.XXXXXX";
  const UniqueFd fd{::mkostemp(temporary.data(), O_CLOEXEC)};
  if (!fd.ok()) return fmt::format("{}: {}", directory, std::strerror(errno));
  const bool written =
      ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ::fchmod(fd.get(), 0644) == 0 && ::fsync(fd.get()) == 0 &&
      ::rename(temporary.c_str(), (directory + "/charge.json").c_str()) == 0;
  if (written) return {};
  const int why = errno;
  ::unlink(temporary.c_str());
  return fmt::format("{}/charge.json: {}", directory, std::strerror(why));
}

const Calibration* find_calibration(const std::vector<Calibration>& all, const std::string& uuid,
                                    const std::string& driver) {
  for (const Calibration& c : all) {
    if (c.uuid == uuid && c.driver == driver) return &c;
  }
  return nullptr;
}

}  // namespace bulkhead::cli

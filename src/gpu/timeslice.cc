#include "gpu/timeslice.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace bulkhead::gpu {
namespace {

using nlohmann::json;
constexpr std::size_t kMostBytes = 1u << 20;
constexpr std::uint64_t kLeastGap_ns = 100'000;  // no operation's own delay is so long

std::uint64_t median(std::vector<std::uint64_t> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

std::string text_at(const json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_string() ? at->get<std::string>() : std::string{};
}

// False: it is there and is not a number up to `most`.
bool number_at(const json& j, const char* key, std::uint64_t most, std::uint64_t& out) {
  const auto at = j.find(key);
  if (at == j.end() || !at->is_number_unsigned()) return false;
  out = at->get<std::uint64_t>();
  return out <= most;
}

}  // namespace

Rounds rounds_of(const std::vector<std::uint64_t>& ends) {
  Rounds out;
  if (ends.size() < 3) return out.why = "too few operations", out;
  std::vector<std::uint64_t> apart;
  for (std::size_t i = 1; i < ends.size(); ++i)
    apart.push_back(ends[i] > ends[i - 1] ? ends[i] - ends[i - 1] : 0);
  const std::uint64_t one = median(apart);
  // A turn goes from where one foreign turn is over to where the next is; the operation that was interrupted is one's own.
  std::vector<std::uint64_t> turns;
  std::uint64_t own = 0, all = 0, begin = 0;
  for (std::size_t i = 0; i < apart.size(); ++i) {
    if (apart[i] < 4 * one + kLeastGap_ns) continue;
    if (begin != 0) {
      const std::uint64_t turn = ends[i] - begin + one;
      turns.push_back(turn);
      own += turn;
      all += ends[i + 1] - begin;
    }
    begin = ends[i + 1];
  }
  if (turns.size() < kLeastRounds) return out.why = "the contexts took no turns", out;
  const std::uint64_t slice = median(turns);
  const auto usual = std::count_if(turns.begin(), turns.end(), [slice](std::uint64_t t) {
    return t > slice - slice / 4 && t < slice + slice / 4;
  });
  if (static_cast<std::size_t>(usual) * 4 < turns.size() * 3)
    return out.why = "turns differ too much", out;
  if (slice < kLeastSlice_ns || slice > kMostSlice_ns)
    return out.why = "turns of no credible length", out;
  const std::uint64_t both = 2 * own;
  const std::uint64_t lost = all > both ? (all - both) * 1'000 / all : 0;
  if (both > all + all / 20) return out.why = "the other context rested", out;
  if (lost > kMostLoss_x1000) return out.why = "somebody else was on the device", out;
  out.slice_ns = slice;
  out.loss_x1000 = static_cast<unsigned>(lost);
  out.count = static_cast<unsigned>(turns.size());
  return out;
}

std::vector<TimeSlice> time_slices_from_json(const std::string& text) {
  std::vector<TimeSlice> out;
  const json all = json::parse(text, nullptr, false);
  std::uint64_t schema = 0;
  if (!all.is_object() || !number_at(all, "schema", 1, schema) || schema != 1) return out;
  const auto gpus = all.find("gpus");
  if (gpus == all.end() || !gpus->is_array()) return out;
  for (const json& j : *gpus) {
    if (!j.is_object()) continue;
    TimeSlice t;
    t.uuid = text_at(j, "uuid");
    t.driver = text_at(j, "driver");
    t.measured = text_at(j, "measured");
    t.evidence = text_at(j, "evidence");
    std::uint64_t loss = 0;
    if (t.uuid.empty() || t.driver.empty() ||
        !number_at(j, "slice_ns", kMostSlice_ns, t.slice_ns) ||
        !number_at(j, "loss_x1000", kMostLoss_x1000, loss) ||
        (t.slice_ns != 0 && t.slice_ns < kLeastSlice_ns))
      continue;
    t.loss_x1000 = static_cast<unsigned>(loss);
    out.push_back(std::move(t));
  }
  return out;
}

std::string time_slices_to_json(const std::vector<TimeSlice>& all) {
  json gpus = json::array();
  for (const TimeSlice& t : all) {
    gpus.push_back({{"uuid", t.uuid},
                    {"driver", t.driver},
                    {"measured", t.measured},
                    {"slice_ns", t.slice_ns},
                    {"loss_x1000", t.loss_x1000},
                    {"evidence", t.evidence}});
  }
  const json out = {{"schema", 1}, {"gpus", std::move(gpus)}};
  return out.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::vector<TimeSlice> load_time_slices(const std::string& state) {
  std::ifstream file{state + "/" + kTimeSliceFile, std::ios::binary};
  std::string text(kMostBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  return time_slices_from_json(text);
}

std::string keep_time_slice(const std::string& state, const TimeSlice& fresh) {
  std::vector<TimeSlice> all = load_time_slices(state);
  std::erase_if(all, [&fresh](const TimeSlice& has) {
    return has.uuid == fresh.uuid && has.driver == fresh.driver;
  });
  all.push_back(fresh);
  std::error_code failed;
  std::filesystem::create_directories(state, failed);
  const std::string file = state + "/" + kTimeSliceFile;
  const std::string part = file + "." + std::to_string(::getpid());
  const std::string text = time_slices_to_json(all);
  std::FILE* out = std::fopen(part.c_str(), "we");
  bool written = out != nullptr && std::fwrite(text.data(), 1, text.size(), out) == text.size() &&
                 std::fflush(out) == 0 && ::fsync(::fileno(out)) == 0;
  if (out != nullptr) written = std::fclose(out) == 0 && written;
  if (written && std::rename(part.c_str(), file.c_str()) == 0) return {};
  std::string why = file + ": " + std::strerror(errno);
  ::unlink(part.c_str());
  return why;
}

}  // namespace bulkhead::gpu

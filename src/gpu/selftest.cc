#include "gpu/selftest.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace bulkhead::gpu {
namespace {

using nlohmann::json;
constexpr std::size_t kMostBytes = 1u << 20;

std::string text_at(const json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_string() ? at->get<std::string>() : std::string{};
}

unsigned number_at(const json& j, const char* key, unsigned most) {
  const auto at = j.find(key);
  if (at == j.end() || !at->is_number_unsigned()) return 0;
  const auto value = at->get<std::uint64_t>();
  return value <= most ? static_cast<unsigned>(value) : 0;
}

Finding finding_at(const json& j, const char* key) {
  Finding out;
  const auto at = j.find(key);
  if (at == j.end() || !at->is_object()) return out;
  const std::string word = text_at(*at, "verdict");
  if (word == "works") out.verdict = shm::Seen::kWorks;
  if (word == "no") out.verdict = shm::Seen::kNo;
  out.evidence = text_at(*at, "evidence");
  return out;
}

json finding_json(const Finding& f) {
  return {{"verdict", seen_text(f.verdict)}, {"evidence", f.evidence}};
}

}  // namespace

const char* seen_text(shm::Seen seen) {
  return seen == shm::Seen::kWorks ? "works" : seen == shm::Seen::kNo ? "no" : "unknown";
}

shm::Verdict SelfTest::verdict() const {
  shm::Verdict v;
  v.spatial = spatial.verdict;
  v.partitions = partitions.verdict;
  v.green = green.verdict;
  v.slice = slice.verdict;
  v.sms = sms;
  v.sm_unit = sm_unit;
  v.sm_least = sm_least;
  v.chunks = chunks;
  v.chunk_sms = chunk_sms;
  std::tm at{};
  if (::strptime(tested.c_str(), "%Y-%m-%dT%H:%M:%SZ", &at) != nullptr)
    v.tested_unix_s = static_cast<std::uint64_t>(std::max<std::time_t>(0, ::timegm(&at)));
  return v;
}

std::vector<SelfTest> self_tests_from_json(const std::string& text) {
  std::vector<SelfTest> out;
  const json all = json::parse(text, nullptr, false);
  if (!all.is_object() || number_at(all, "schema", 1) != 1) return out;
  const auto gpus = all.find("gpus");
  if (gpus == all.end() || !gpus->is_array()) return out;
  for (const json& j : *gpus) {
    if (!j.is_object()) continue;
    SelfTest t;
    t.uuid = text_at(j, "uuid");
    t.driver = text_at(j, "driver");
    if (t.uuid.empty() || t.driver.empty()) continue;
    t.name = text_at(j, "name");
    t.tested = text_at(j, "tested");
    t.sms = number_at(j, "sms", 0xffff);
    t.sm_unit = number_at(j, "sm_unit", 0xff);
    t.sm_least = number_at(j, "sm_least", 0xff);
    t.green_sms = number_at(j, "green_sms", 0xffff);
    t.green_unit = number_at(j, "green_unit", 0xffff);
    t.chunks = number_at(j, "chunks", 0xff);
    t.chunk_sms = number_at(j, "chunk_sms", 0xff);
    t.spatial = finding_at(j, "spatial");
    t.partitions = finding_at(j, "partitions");
    t.green = finding_at(j, "green");
    t.slice = finding_at(j, "slice");
    out.push_back(std::move(t));
  }
  return out;
}

std::string self_tests_to_json(const std::vector<SelfTest>& all) {
  json gpus = json::array();
  for (const SelfTest& t : all) {
    gpus.push_back({{"uuid", t.uuid},
                    {"driver", t.driver},
                    {"name", t.name},
                    {"tested", t.tested},
                    {"sms", t.sms},
                    {"sm_unit", t.sm_unit},
                    {"sm_least", t.sm_least},
                    {"green_sms", t.green_sms},
                    {"green_unit", t.green_unit},
                    {"chunks", t.chunks},
                    {"chunk_sms", t.chunk_sms},
                    {"spatial", finding_json(t.spatial)},
                    {"partitions", finding_json(t.partitions)},
                    {"green", finding_json(t.green)},
                    {"slice", finding_json(t.slice)}});
  }
  const json out = {{"schema", 1}, {"gpus", std::move(gpus)}};
  return out.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::vector<SelfTest> load_self_tests(const std::string& state) {
  std::ifstream file{state + "/" + kSelfTestFile, std::ios::binary};
  std::string text(kMostBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  return self_tests_from_json(text);
}

std::string keep_self_test(const std::string& state, const SelfTest& test) {
  std::vector<SelfTest> all = load_self_tests(state);
  std::erase_if(all, [&test](const SelfTest& has) {
    return has.uuid == test.uuid && has.driver == test.driver;
  });
  all.push_back(test);
  std::error_code failed;
  std::filesystem::create_directories(state, failed);
  const std::string file = state + "/" + kSelfTestFile;
  const std::string fresh = file + "." + std::to_string(::getpid());
  const std::string text = self_tests_to_json(all);
  std::FILE* out = std::fopen(fresh.c_str(), "we");
  bool written = out != nullptr && std::fwrite(text.data(), 1, text.size(), out) == text.size() &&
                 std::fflush(out) == 0 && ::fsync(::fileno(out)) == 0;
  if (out != nullptr) written = std::fclose(out) == 0 && written;
  if (written && std::rename(fresh.c_str(), file.c_str()) == 0) return {};
  std::string why = file + ": " + std::strerror(errno);
  ::unlink(fresh.c_str());
  return why;
}

}  // namespace bulkhead::gpu

// The self-test of static MPS partitions: only what was seen to bind is called works; what is not understood is unknown.
#include <fmt/format.h>
#include <unistd.h>

#include "cli/selftest_inside.h"
#include "policy/partition.h"

namespace bulkhead::cli::selftest {
namespace {

using shm::Seen;

// A control daemon with -S and one GPU of it. Each step that fails has its reason in `why`.
class Divided {
 public:
  Divided(const Bench& b, const std::string& uuid)
      : bench_(b), uuid_(uuid), mps_(b.options.control, {"-S"}) {}

  bool look(std::string& why) {
    if (!mps_.runs())
      return fails(why, "it does not start with -S: " + policy::quoted_line(mps_.said()));
    auto [code, said] = mps_.order("lspart");
    if (code == 0 && policy::parse_lspart(said).problem.empty() &&
        policy::parse_lspart(said).gpus.empty()) {  // seen while no server runs
      (void)mps_.order("start_server -uid " + std::to_string(::geteuid()));
      std::tie(code, said) = mps_.order("lspart");
    }
    const policy::PartitionTable table = policy::parse_lspart(said);
    if (code != 0) return fails(why, "lspart: " + policy::quoted_line(said));
    if (!table.problem.empty()) return fails(why, table.problem);
    const policy::PartitionedGpu* g = table.of(uuid_);
    if (g == nullptr) return fails(why, "lspart does not show this GPU");
    gpu_ = *g;
    return true;
  }
  // Its row, as lspart lists it.
  bool add(std::uint32_t chunks, policy::PartitionRow& out, std::string& why) {
    const auto [code, said] = mps_.order(fmt::format("sm_partition add {} {}", uuid_, chunks));
    const policy::AddedPartition added = policy::parse_added(said, uuid_);
    if (code != 0 || added.id.empty())
      return fails(why, fmt::format("sm_partition add said '{}'", policy::quoted_line(said)));
    if (!look(why)) return false;
    const policy::PartitionRow* row = policy::partition_of(gpu_, added.id);
    if (row == nullptr) return fails(why, "lspart does not list the partition that was made");
    out = *row;
    return true;
  }
  bool remove(const policy::PartitionRow& row, std::string& why) {
    (void)mps_.order("sm_partition rm " + uuid_ + " " + row.id);
    if (!look(why)) return false;
    return policy::partition_of(gpu_, row.id) == nullptr ||
           fails(why, "lspart lists a partition that was removed");
  }
  // Distinct multiprocessors in it, and what the driver tells; 0: none, `why`.
  std::pair<unsigned, unsigned> count(const policy::PartitionRow* row, std::string& why) {
    Variables more = mps_.variables();
    if (row != nullptr) more.emplace_back("CUDA_MPS_SM_PARTITION", uuid_ + "/" + row->id);
    const nlohmann::json said = ask(bench_, "smid", more);
    const auto distinct = number(said, "distinct"), told = number(said, "attribute");
    if (distinct && told) return {*distinct, *told};
    why = problem_of(said);
    return {0, 0};
  }
  [[nodiscard]] const policy::PartitionedGpu& gpu() const { return gpu_; }

 private:
  static bool fails(std::string& why, std::string text) {
    why = std::move(text);
    return false;
  }
  const Bench& bench_;
  std::string uuid_;
  PrivateMps mps_;
  policy::PartitionedGpu gpu_;
};

// One partition asked; false: no count at all.
bool asked(Divided& d, const policy::PartitionRow& row, bool& binds, std::string& evidence) {
  std::string why;
  const auto [distinct, told] = d.count(&row, why);
  if (distinct == 0) {
    evidence += fmt::format("; in a partition of {} chunks: {}", row.chunks, why);
    return false;
  }
  evidence += fmt::format(", {} of {} SMs used in {} chunk{}", distinct, row.sms, row.chunks,
                          row.chunks == 1 ? "" : "s");
  if (distinct != told) evidence += fmt::format(" (the driver says {})", told);
  binds &= distinct == row.sms && told == row.sms;
  return true;
}

}  // namespace

void test_partitions(const Bench& b, PrivateMps& mps, gpu::SelfTest& out) {
  if (!mps.runs()) return;
  gpu::Finding& f = out.partitions;
  const auto [code, said] = mps.order("lspart");
  const std::string word = policy::quoted_line(said);
  if (word.find("nknown command") != std::string::npos) {
    f = {Seen::kNo, "lspart: " + word};
    return;
  }
  if (code != 0 || out.sms == 0) {
    f.evidence = code != 0 ? fmt::format("lspart: exit code {}: {}", code, word)
                           : "the multiprocessors could not be counted";
    return;
  }
  Divided d{b, out.uuid};
  policy::PartitionRow one, half;
  if (!d.look(f.evidence)) return;
  const std::uint32_t chunks = d.gpu().free_chunks;
  if (!d.gpu().partitions.empty() || chunks < 2 || chunks > 255) {
    f.evidence = fmt::format("{} chunks are free and {} partitions there", chunks,
                             d.gpu().partitions.size());
    return;
  }
  if (!d.add(1, one, f.evidence) || !d.add(chunks / 2, half, f.evidence)) return;
  f.evidence = fmt::format("{} chunks of {} SMs", chunks, one.sms);
  bool binds = one.chunks == 1 && half.chunks == chunks / 2 && half.sms == half.chunks * one.sms &&
               chunks * one.sms <= out.sms && one.sms <= 255;
  if (!asked(d, one, binds, f.evidence) || !asked(d, half, binds, f.evidence)) return;
  std::string why;
  const unsigned without = d.count(nullptr, why).first;
  f.evidence +=
      without == 0 ? ", none without one: " + why : fmt::format(", {} without one", without);
  binds &= without == 0;
  std::string left;
  if (!d.remove(one, left) || !d.remove(half, left)) {
    f.evidence += "; " + left;
    return;
  }
  f.verdict = binds ? Seen::kWorks : Seen::kNo;
  if (!binds) return;
  out.chunks = chunks;
  out.chunk_sms = one.sms;
}

}  // namespace bulkhead::cli::selftest

// What the receiver has confirmed, on the disk (docs/compliance/siem.md): STATE/siem/position, two slots written in turn, and the names
// that belong to it, STATE/siem/names.0 and names.1.
//
// Claim  after a crash at any instruction load() gives a position that was saved, and none later than what save() was asked to keep.
// Proof  save() writes the slot that load() would not choose, names first; each is checked by its CRC; fdatasync stands between them
//        and before the next save.
// Price  one fdatasync a save, two when names changed.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "audit/tree.h"
#include "base/fd.h"
#include "base/outcome.h"
#include "daemon/siem/context.h"

namespace bulkhead::daemon::siem {

struct Position {
  std::uint64_t next = 0;  // first leaf that is not confirmed
  std::uint64_t checkpoints_at =
      0;  // where in `checkpoints` the first note above `next` is looked for
  std::optional<audit::Frontier>
      tree;         // of the leaves below next; none: roots are not compared until a segment begins
  std::string log;  // id of the host key
  std::shared_ptr<const Context> names = std::make_shared<Context>();
};

// Descriptors of the three files, open for reading and writing.
struct PositionFiles {
  UniqueFd slots, names[2];
};
// In a directory that exists; made 0600. The problem, or the files.
[[nodiscard]] Outcome<PositionFiles> open_position_files(int directory);

class PositionStore {
 public:
  explicit PositionStore(PositionFiles files) : files_(std::move(files)) {}
  // None: nothing was ever saved (`damaged` false), or no slot is whole.
  [[nodiscard]] std::optional<Position> load(bool& damaged);
  // 0 or errno.
  [[nodiscard]] int save(const Position& position);

 private:
  PositionFiles files_;
  std::uint64_t sequence_ = 0;  // of the newest slot
  unsigned names_in_ = 1;       // which file holds the names of the newest slot
  std::uint32_t names_crc_ = 0, names_bytes_ = 0;
  std::shared_ptr<const Context> saved_names_;
};

}  // namespace bulkhead::daemon::siem

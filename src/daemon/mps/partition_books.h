// DIR/partitions/TENANT: what the daemon has made of partitions, one small file a tenant (docs/spatial.md "Partitions"). Written by rename
// before anybody is told; read again at a start. Control loop only: small files of our own directory, in memory.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "base/fd.h"
#include "shm/partition.h"

namespace bulkhead::daemon {

class PartitionBooks {
 public:
  explicit PartitionBooks(std::string directory) : directory_(std::move(directory)) {}
  // What an earlier daemon wrote. A file that is not understood is removed: its partition is then one that nobody has in his books.
  void load();
  [[nodiscard]] const shm::PartitionBook* of(const std::string& tenant) const;
  [[nodiscard]] const std::map<std::string, shm::PartitionBook>& all() const { return all_; }
  // False: it could not be written, and is not in the books.
  [[nodiscard]] bool keep(const std::string& tenant, const shm::PartitionBook& book);
  void forget(const std::string& tenant);

 private:
  [[nodiscard]] UniqueFd open(bool make) const;

  std::string directory_;  // DIR
  std::map<std::string, shm::PartitionBook> all_;
};

}  // namespace bulkhead::daemon

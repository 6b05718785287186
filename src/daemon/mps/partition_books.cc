#include "daemon/mps/partition_books.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "base/kill_point.h"
#include "shm/files.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;

std::string text_at(const fs::path& path) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  std::string out(shm::kPartitionBytes, '\0');
  const ssize_t n = fd.ok() ? ::read(fd.get(), out.data(), out.size()) : 0;
  out.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return out;
}

std::string text_of(const shm::PartitionBook& b) {
  std::string out;
  if (b.value[0] != '\0') {
    out += std::string{"partition "} + static_cast<const char*>(b.value) + "\nchunks " +
           std::to_string(b.chunks) + "\nsms " + std::to_string(b.sms) + "\n";
  } else {
    out += std::string{"refused "} + static_cast<const char*>(b.refused) + "\n";
  }
  return out + "group " + static_cast<const char*>(b.group) + "\nuid " + std::to_string(b.uid) +
         "\n";
}

}  // namespace

UniqueFd PartitionBooks::open(bool make) const {
  const std::string at = directory_ + "/" + shm::kPartitionsDir;
  if (make && ::mkdir(at.c_str(), 0755) == 0)
    (void)::chmod(at.c_str(), 0755);  // whatever the umask
  return UniqueFd{::open(at.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
}

void PartitionBooks::load() {
  all_.clear();
  const std::string at = directory_ + "/" + shm::kPartitionsDir;
  std::error_code none;
  std::vector<std::string> bad;
  for (const auto& file : fs::directory_iterator{at, none}) {
    const std::string tenant = file.path().filename();
    const std::string text = text_at(file.path());
    shm::PartitionBook book;
    if (shm::valid_name(tenant.c_str()) && shm::parse_partition(text.data(), text.size(), book)) {
      all_[tenant] = book;
    } else {
      bad.push_back(tenant);
    }
  }
  const UniqueFd dir = open(false);
  for (const std::string& tenant : bad) (void)::unlinkat(dir.get(), tenant.c_str(), 0);
}

const shm::PartitionBook* PartitionBooks::of(const std::string& tenant) const {
  const auto at = all_.find(tenant);
  return at == all_.end() ? nullptr : &at->second;
}

// No fsync: DIR is gone with a reboot, as MPS is; a daemon that is killed leaves what the kernel has.
bool PartitionBooks::keep(const std::string& tenant, const shm::PartitionBook& book) {
  const std::string text = text_of(book);
  shm::PartitionBook same;
  if (!shm::valid_name(tenant.c_str()) || !shm::parse_partition(text.data(), text.size(), same))
    return false;
  const UniqueFd dir = open(true);
  const std::string made = ".new";  // no tenant's name
  const UniqueFd fd{::openat(dir.get(), made.c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644)};
  if (!fd.ok() || ::fchmod(fd.get(), 0644) != 0 ||
      ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return false;
  BH_KILL_POINT("partition.booked");
  if (::renameat(dir.get(), made.c_str(), dir.get(), tenant.c_str()) != 0) return false;
  all_[tenant] = book;
  return true;
}

void PartitionBooks::forget(const std::string& tenant) {
  if (all_.erase(tenant) == 0) return;
  const UniqueFd dir = open(false);
  (void)::unlinkat(dir.get(), tenant.c_str(), 0);
}

}  // namespace bulkhead::daemon

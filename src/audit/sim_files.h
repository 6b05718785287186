// For tests: a file system in memory that obeys a seed. It knows what is durable: a crash keeps of each file what was
// synced, and of what was not any subset of its 512-byte sectors, in any order; of names, those whose directory was synced
// (and a rename either whole or not). Every call may be the last one, or fail with EIO, ENOSPC or a short write.
#pragma once
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "audit/files.h"

namespace bulkhead::audit::test {

struct SimNode {
  std::string now, durable;  // content
};

struct SimDisk {
  explicit SimDisk(std::uint64_t seed) : random(seed) {}
  std::mt19937_64 random;
  std::map<std::string, std::shared_ptr<SimNode>> now, durable;  // names
  std::uint64_t calls = 0;
  std::uint64_t stop_at =
      UINT64_MAX;  // this call and all after it do nothing: the machine has stopped
  std::uint64_t bytes_left = UINT64_MAX;
  unsigned short_writes = 0, errors = 0;  // per thousand calls
  bool fsync_fails = false;
  std::uint64_t synced_calls = 0;

  [[nodiscard]] bool stopped() { return ++calls >= stop_at; }
  [[nodiscard]] bool chance(unsigned per_mille) {
    return per_mille > 0 && random() % 1000 < per_mille;
  }

  // What is found after the machine stopped.
  void crash() {
    for (auto& [name, node] : now) {
      // A name that was not synced is there or not; a file that lost its name is as it was.
      const auto old = durable.find(name);
      if ((old == durable.end() || old->second != node) && random() % 2 == 0) durable[name] = node;
    }
    for (auto it = durable.begin(); it != durable.end();) {
      const bool gone =
          !now.contains(it->first) && random() % 2 == 0;  // a rename away, or a removal
      it = gone ? durable.erase(it) : std::next(it);
    }
    for (auto& [name, node] : durable) tear(*node);
    now = durable;
    calls = 0;
    stop_at = UINT64_MAX;
    bytes_left = UINT64_MAX;
    fsync_fails = false;
    short_writes = errors = 0;
  }

 private:
  void tear(SimNode& node) {
    std::string after = node.durable;
    const std::size_t longest = std::max(node.now.size(), node.durable.size());
    for (std::size_t at = 0; at < longest; at += 512) {
      if (random() % 2 == 0) continue;  // this sector never arrived
      const std::size_t end = std::min(at + 512, node.now.size());
      if (end <= at) continue;
      if (after.size() < end) after.resize(end, '\0');
      std::copy(node.now.begin() + static_cast<std::ptrdiff_t>(at),
                node.now.begin() + static_cast<std::ptrdiff_t>(end),
                after.begin() + static_cast<std::ptrdiff_t>(at));
    }
    if (node.now.size() < after.size() && random() % 2 == 0) after.resize(node.now.size());
    node.now = node.durable = after;
  }
};

class SimFile final : public File {
 public:
  SimFile(SimDisk& disk, std::shared_ptr<SimNode> node) : disk_(disk), node_(std::move(node)) {}
  long write_at(const void* data, std::size_t n, std::uint64_t at) noexcept override {
    if (disk_.stopped()) return static_cast<long>(n);
    if (disk_.chance(disk_.errors)) return -EIO;
    if (disk_.chance(disk_.short_writes) && n > 1) n = 1 + disk_.random() % (n - 1);
    if (disk_.bytes_left == 0) return -ENOSPC;
    n = static_cast<std::size_t>(std::min<std::uint64_t>(n, disk_.bytes_left));
    if (disk_.bytes_left != UINT64_MAX) disk_.bytes_left -= n;
    if (node_->now.size() < at + n) node_->now.resize(static_cast<std::size_t>(at + n), '\0');
    std::memcpy(node_->now.data() + at, data, n);
    return static_cast<long>(n);
  }
  long read_at(void* data, std::size_t n, std::uint64_t at) noexcept override {
    if (at >= node_->now.size()) return 0;
    n = std::min<std::size_t>(n, node_->now.size() - static_cast<std::size_t>(at));
    std::memcpy(data, node_->now.data() + at, n);
    return static_cast<long>(n);
  }
  int sync() noexcept override {
    if (disk_.stopped()) return 0;
    ++disk_.synced_calls;
    if (disk_.fsync_fails) return EIO;
    node_->durable = node_->now;
    return 0;
  }
  int truncate(std::uint64_t size) noexcept override {
    if (disk_.stopped()) return 0;
    node_->now.resize(static_cast<std::size_t>(size), '\0');
    return 0;
  }
  std::uint64_t size() noexcept override { return node_->now.size(); }

 private:
  SimDisk& disk_;
  std::shared_ptr<SimNode> node_;
};

class SimFiles final : public Files {
 public:
  explicit SimFiles(SimDisk& disk) : disk_(disk) {}
  std::unique_ptr<File> open(const std::string& name, OpenMode mode, int& error) noexcept override {
    error = 0;
    auto it = disk_.now.find(name);
    if (it == disk_.now.end()) {
      if (mode == OpenMode::kRead || mode == OpenMode::kWrite) {
        error = ENOENT;
        return nullptr;
      }
      auto node = std::make_shared<SimNode>();
      if (!disk_.stopped()) disk_.now[name] = node;
      return std::make_unique<SimFile>(disk_, std::move(node));
    }
    if (mode == OpenMode::kFresh && !disk_.stopped()) {
      // The old content may come back after a crash: only the emptied one is new.
      it->second->now.clear();
    }
    return std::make_unique<SimFile>(disk_, it->second);
  }
  int rename(const std::string& from, const std::string& to) noexcept override {
    if (disk_.stopped()) return 0;
    const auto it = disk_.now.find(from);
    if (it == disk_.now.end()) return ENOENT;
    disk_.now[to] = it->second;
    disk_.now.erase(from);
    return 0;
  }
  int remove(const std::string& name) noexcept override {
    if (disk_.stopped()) return 0;
    return disk_.now.erase(name) > 0 ? 0 : ENOENT;
  }
  int make_directory(const std::string&) noexcept override { return 0; }
  int sync_directory(const std::string& name) noexcept override {
    if (disk_.stopped()) return 0;
    if (disk_.fsync_fails) return EIO;
    const std::string prefix = name == "." ? "" : name + "/";
    const auto inside = [&](const std::string& path) {
      return path.starts_with(prefix) && path.find('/', prefix.size()) == std::string::npos;
    };
    std::erase_if(disk_.durable, [&](const auto& one) {
      return inside(one.first) && !disk_.now.contains(one.first);
    });
    for (const auto& [path, node] : disk_.now) {
      if (inside(path)) disk_.durable[path] = node;
    }
    return 0;
  }
  std::vector<std::string> list(const std::string& directory) noexcept override {
    std::vector<std::string> out;
    const std::string prefix = directory + "/";
    for (const auto& [path, node] : disk_.now) {
      if (path.starts_with(prefix)) out.push_back(path.substr(prefix.size()));
    }
    return out;
  }
  std::uint64_t room() noexcept override { return disk_.bytes_left; }
  int lock() noexcept override { return 0; }

 private:
  SimDisk& disk_;
};

}  // namespace bulkhead::audit::test

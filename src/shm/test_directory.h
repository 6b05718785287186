// For tests: a directory of tenants of its own, gone with the test.
#pragma once
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "shm/node.h"
#include "shm/tenant.h"

namespace bulkhead::shm {

namespace fs = std::filesystem;
inline constexpr std::uint64_t kGiB = 1ull << 30;

class TenantTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  DirOptions options(const std::string& asked) {
    asked_ = asked;
    root_dir_ = root_ + "/run";
    DirOptions o;
    o.asked = asked_.empty() ? nullptr : asked_.c_str();
    o.root_dir = root_dir_.c_str();
    o.root_uid = ::geteuid();  // this process plays root where root is asked for
    o.euid = ::geteuid();
    o.create = true;
    return o;
  }
  Dir dir() {
    Result<Dir> d = open_dir(options(root_ + "/own"));
    EXPECT_TRUE(d.ok()) << d.status().text();
    return std::move(*d);
  }
  static TenantSpec spec(const char* name, std::uint64_t limit, std::uint8_t gpu = 1) {
    TenantSpec s;
    s.name = name;
    s.owner_uid = ::geteuid();
    s.device_count = 1;
    s.devices[0].uuid[0] = gpu;
    s.devices[0].limit_bytes = limit;
    s.devices[0].total_bytes = 80 * kGiB;
    return s;
  }
  static Status create(const Dir& d, const TenantSpec& s) {
    Arithmetic sums;
    return create_tenant(d, s, sums);
  }
  std::string region_path(const char* name) const {
    return root_ + "/own/tenants/" + name + "/region";
  }
  static std::vector<std::string> names(const Dir& d) {
    std::vector<std::string> out;
    EXPECT_TRUE(list_tenants(
                    d,
                    [](void* to, const char* name) {
                      static_cast<std::vector<std::string>*>(to)->push_back(name);
                      return true;
                    },
                    &out)
                    .ok());
    return out;
  }
  void write_node(std::uint32_t flags) {
    fs::create_directory(root_ + "/run");
    fs::permissions(root_ + "/run", fs::perms{0755});
    std::vector<char> bytes(sizeof(NodePage));
    format_node(*new (bytes.data()) NodePage, flags);
    std::ofstream{root_ + "/run/node", std::ios::binary}.write(
        bytes.data(), static_cast<std::streamsize>(bytes.size()));
    fs::permissions(root_ + "/run/node", fs::perms{0444});
  }

  std::string root_, asked_, root_dir_;
};

}  // namespace bulkhead::shm

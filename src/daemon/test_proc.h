// For tests: a /proc of files and links.
#pragma once
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/proc_scan.h"

namespace bulkhead::daemon {

// /dev/null stands for a device node: its major is the one looked for.
class FakeProc {
 public:
  FakeProc() {
    char text[] = "/tmp/bh_proc_XXXXXX";
    path = ::mkdtemp(text);
    struct stat st {};
    ::stat("/dev/null", &st);
    options.root = path;
    options.majors = {major(st.st_rdev)};
  }
  ~FakeProc() { std::filesystem::remove_all(path); }
  FakeProc(const FakeProc&) = delete;
  FakeProc& operator=(const FakeProc&) = delete;

  void process(std::uint32_t pid, std::uint64_t start, const std::string& command = "a) (b") const {
    const std::filesystem::path at = std::filesystem::path{path} / std::to_string(pid);
    std::filesystem::create_directories(at / "fd");
    std::ofstream{at / "stat"} << pid << " (" << command << ") S 77 5 6 7 8 9 10 11 12 13 14 15 16 "
                               << "17 18 19 20 21 " << start << " 23 24\n";
    std::ofstream{at / "status"} << "Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t" << pid << "\t1\n";
    std::filesystem::remove(at / "exe");
    std::filesystem::create_symlink("/usr/bin/prog", at / "exe");
  }
  void fd(std::uint32_t pid, int number, const char* to) const {
    std::filesystem::create_symlink(
        to, std::filesystem::path{path} / std::to_string(pid) / "fd" / std::to_string(number));
  }
  std::string path;
  ProcScanOptions options;
};

}  // namespace bulkhead::daemon

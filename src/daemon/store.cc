#include "daemon/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "daemon/side_thread.h"
#include "daemon/usage_compact.h"

namespace bulkhead::daemon {
namespace {

constexpr std::size_t kBatchBytes = 256u << 10;
constexpr std::size_t kTornBytes = 1u << 20;  // no line of ours is longer

// Full writes, or why not. The kernel may take a part before the disk is full.
int write_all(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ENOSPC;
    done += static_cast<std::size_t>(n);
  }
  return 0;
}

// Cuts a last line without a newline off: a writer was killed, or the disk was full. `size` becomes what is left.
int cut_torn_line(int fd, off_t& size) {
  if (size == 0) return 0;
  const auto span = static_cast<std::size_t>(std::min<off_t>(size, kTornBytes));
  char last = 0;
  if (::pread(fd, &last, 1, size - 1) == 1 && last == '\n') return 0;
  std::string tail(span, '\0');
  const ssize_t n = ::pread(fd, tail.data(), span, size - static_cast<off_t>(span));
  if (n < 0) return errno;
  const std::size_t newline = tail.find_last_of('\n', static_cast<std::size_t>(n));
  size = newline == std::string::npos ? size - static_cast<off_t>(span)
                                      : size - static_cast<off_t>(span - newline - 1);
  return ::ftruncate(fd, size) == 0 ? 0 : errno;
}

UniqueFd open_below(const std::string& directory, const std::string& name) {
  return UniqueFd{
      ::open((directory + "/" + name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
}

}  // namespace

Outcome<std::unique_ptr<Store>> Store::open(StoreOptions options) {
  using Out = Outcome<std::unique_ptr<Store>>;
  std::unique_ptr<Store> store{new Store{std::move(options)}};
  const char* path = store->options_.directory.c_str();
  store->directory_ = UniqueFd{::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!store->directory_.ok()) {
    return Out::because(std::string{path} + ": " + std::strerror(errno) +
                        "; it is where events and usage are kept");
  }
  const NoSignals quiet;  // SIGXFSZ becomes EFBIG
  store->thread_ = std::thread{[raw = store.get()] { raw->work(); }};
  return Out{std::move(store)};
}

Store::~Store() { stop(); }

bool Store::append(Target target, std::string line) {
  line += '\n';
  const std::size_t room =
      target == Target::kEvents ? options_.event_queue_bytes : options_.usage_queue_bytes;
  const std::lock_guard lock{mutex_};
  std::size_t& waiting = waiting_bytes_[static_cast<unsigned>(target)];
  if (stop_ || waiting + line.size() > room) {
    ++health_.lost_lines;
    return false;
  }
  waiting += line.size();
  queue_.push_back({target, {}, std::move(line)});
  changed_.notify_all();
  return true;
}

void Store::replace(const std::string& name, std::string content) {
  const std::lock_guard lock{mutex_};
  if (stop_) return;
  std::erase_if(queue_,
                [&](const Item& i) { return i.target == Target::kReplace && i.name == name; });
  queue_.push_back({Target::kReplace, name, std::move(content)});
  changed_.notify_all();
}

StoreHealth Store::health() const {
  const std::lock_guard lock{mutex_};
  return health_;
}

bool Store::wait_idle(unsigned timeout_ms) {
  std::unique_lock lock{mutex_};
  return changed_.wait_for(lock, std::chrono::milliseconds{timeout_ms},
                           [&] { return queue_.empty() && !busy_; });
}

void Store::stop() {
  {
    const std::lock_guard lock{mutex_};
    stop_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

// Lines for the same file in a row are one write and one sync.
std::vector<Store::Item> Store::next_batch() {
  std::vector<Item> batch;
  std::size_t bytes = 0;
  while (!queue_.empty() && bytes < kBatchBytes) {
    const Target target = queue_.front().target;
    if (!batch.empty() && (target == Target::kReplace || target != batch.front().target)) break;
    bytes += queue_.front().text.size();
    if (target != Target::kReplace) {
      waiting_bytes_[static_cast<unsigned>(target)] -= queue_.front().text.size();
    }
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
    if (target == Target::kReplace) break;
  }
  return batch;
}

void Store::finish(const std::vector<Item>& batch, int error_number) {
  const bool lines = batch.front().target != Target::kReplace;
  health_.failing = error_number != 0;
  if (error_number == 0) {
    if (lines) health_.written_lines += batch.size();
    return;
  }
  ++health_.failures;
  health_.error_number = error_number;
  health_.file = batch.front().target == Target::kEvents  ? kEventsFile
                 : batch.front().target == Target::kUsage ? kUsageFile
                                                          : batch.front().name;
  if (stop_ && lines) health_.lost_lines += batch.size();
}

void Store::work() {
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::vector<Item> batch = next_batch();
    busy_ = true;
    for (;;) {
      lock.unlock();
      const int error_number = write(batch);
      lock.lock();
      finish(batch, error_number);
      if (error_number == 0 || stop_) break;
      changed_.wait_for(lock, std::chrono::milliseconds{options_.retry_ms}, [&] { return stop_; });
    }
    busy_ = false;
    changed_.notify_all();
  }
}

int Store::write(const std::vector<Item>& batch) {
  const Item& first = batch.front();
  if (first.target == Target::kReplace) {
    const int error_number = replace_state_file(directory_.get(), first.name, first.text);
    // Now no row is in both files (usage_compact.h). If it fails the old file stays; again at the next turn.
    if (error_number == 0 && first.name == kUsageOpenFile)
      (void)compact_usage_file(directory_.get(), options_.usage_bytes, options_.usage_rows);
    return error_number;
  }
  std::string text;
  for (const Item& item : batch) text += item.text;
  if (first.target == Target::kUsage) return append_to(kUsageFile, text);
  const int rotated = rotate_if_full(text.size());
  return rotated != 0 ? rotated : append_to(kEventsFile, text);
}

int Store::rotate_if_full(std::size_t more) {
  struct stat st {};
  if (::fstatat(directory_.get(), kEventsFile, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? 0 : errno;
  }
  if (st.st_size == 0 || static_cast<std::uint64_t>(st.st_size) + more <= options_.rotate_bytes)
    return 0;
  if (::renameat(directory_.get(), kEventsFile, directory_.get(), kEventsBefore) != 0) return errno;
  return ::fsync(directory_.get()) == 0 ? 0 : errno;
}

// Opened each time: an operator may have moved the file, and a failed try leaves nothing to remember.
int Store::append_to(const char* name, const std::string& text) {
  const UniqueFd fd{
      ::openat(directory_.get(), name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0) return errno;
  if (!S_ISREG(st.st_mode)) return EINVAL;
  off_t good = st.st_size;
  if (const int torn = cut_torn_line(fd.get(), good); torn != 0) return torn;
  int error_number = write_all(fd.get(), text);
  if (error_number == 0 && ::fdatasync(fd.get()) != 0) error_number = errno;
  // All or nothing, so that the next try does not write lines twice. If even this fails the torn line is cut next time.
  if (error_number != 0 && ::ftruncate(fd.get(), good) != 0) return errno;
  return error_number;
}

int replace_state_file(int directory_fd, const std::string& name, const std::string& text) {
  const std::string fresh = name + ".new";
  const UniqueFd fd{::openat(directory_fd, fresh.c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!fd.ok()) return errno;
  int error_number = write_all(fd.get(), text);
  if (error_number == 0 && ::fsync(fd.get()) != 0) error_number = errno;
  if (error_number == 0 &&
      ::renameat(directory_fd, fresh.c_str(), directory_fd, name.c_str()) != 0) {
    error_number = errno;
  }
  if (error_number == 0 && ::fsync(directory_fd) != 0) error_number = errno;
  if (error_number != 0) ::unlinkat(directory_fd, fresh.c_str(), 0);  // gives its room back
  return error_number;
}

std::vector<std::string> read_last_lines(const std::string& directory, const std::string& name,
                                         std::size_t most, std::size_t most_bytes) {
  std::vector<std::string> lines;
  const UniqueFd fd = open_below(directory, name);
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return lines;
  const auto span =
      static_cast<std::size_t>(std::min<off_t>(st.st_size, static_cast<off_t>(most_bytes)));
  std::string text(span, '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), span, st.st_size - static_cast<off_t>(span));
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  std::size_t at = 0;
  if (span < static_cast<std::size_t>(st.st_size)) at = text.find('\n') + 1;  // begins in a line
  for (std::size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    lines.push_back(text.substr(at, end - at));
  }
  if (lines.size() > most)
    lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(most));
  return lines;
}

std::string read_state_file(const std::string& directory, const std::string& name,
                            std::size_t most_bytes) {
  const UniqueFd fd = open_below(directory, name);
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) ||
      static_cast<std::uint64_t>(st.st_size) > most_bytes) {
    return {};
  }
  std::string text(static_cast<std::size_t>(st.st_size), '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

}  // namespace bulkhead::daemon

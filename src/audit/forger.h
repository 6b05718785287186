// For tests: somebody who can write the log's directory. He reads all leaves, changes them as he likes and writes segment,
// journal and tree again without a flaw; what he cannot do without keys is sign. With stolen keys he can do that as well.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "audit/crc32c.h"
#include "audit/log_fixture.h"
#include "audit/note.h"

namespace bulkhead::audit::test {

inline std::string slurp(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}
inline void spit(const std::string& path, const std::string& text) {
  std::ofstream{path, std::ios::binary | std::ios::trunc} << text;
}

using Leaves = std::vector<std::string>;

// One segment only: the suite's logs are small.
struct Forger {
  std::string directory;
  [[nodiscard]] std::string segment(const char* ending) const {
    return directory + "/segment/000000000000" + ending;
  }
  [[nodiscard]] Leaves leaves() const {
    const std::string data = slurp(segment(".data"));
    Leaves out;
    for (std::size_t at = 0; at + 2 <= data.size();) {
      const std::size_t n = static_cast<std::size_t>(static_cast<std::uint8_t>(data[at])) << 8 |
                            static_cast<std::uint8_t>(data[at + 1]);
      out.push_back(data.substr(at + 2, n));
      at += 2 + n;
    }
    return out;
  }
  void write(const Leaves& all) const {
    Frontier f;
    std::string data, tree;
    const Buffer header = journal_header(kStart, f);
    std::string journal{header.begin(), header.end()};
    for (const std::string& leaf : all) {
      std::string bytes{static_cast<char>(leaf.size() >> 8), static_cast<char>(leaf.size())};
      bytes += leaf;
      BatchRecord r;
      r.first = f.size();
      r.count = 1;
      r.offset = data.size();
      r.data_bytes = static_cast<std::uint32_t>(bytes.size());
      r.data_crc = crc32c(bytes_of(bytes));
      Hash h = leaf_hash(bytes_of(leaf));
      r.marks = {{h[0], h[1]}};
      f.append(std::span{&h, 1}, [&](unsigned level, const Hash& hash) {
        if (level == 8) tree.append(hash.begin(), hash.end());
      });
      r.root = f.root();
      Buffer record;
      put_batch_record(r, record);
      journal.append(record.begin(), record.end());
      data += bytes;
    }
    spit(segment(".data"), data);
    spit(segment(".journal"), journal);
    spit(directory + "/tree/1", tree);
  }
  void change(const std::function<void(Leaves&)>& how) const {
    Leaves all = leaves();
    how(all);
    write(all);
  }
  [[nodiscard]] static Hash root_of(const Leaves& all, std::size_t size) {
    Frontier f;
    for (std::size_t i = 0; i < size; ++i) f.append(leaf_hash(bytes_of(all[i])));
    return f.root();
  }
  [[nodiscard]] std::vector<Note> checkpoints() const {
    const std::string text = slurp(directory + "/checkpoints");
    std::vector<Note> out;
    std::size_t at = 0, used = 0;
    for (auto note = parse_note(text, used); note;
         note = parse_note(std::string_view{text}.substr(at), used)) {
      out.push_back(*note);
      at += used;
      if (at >= text.size()) break;
    }
    return out;
  }
  void write_checkpoints(const std::vector<Note>& all) const {
    std::string text;
    for (const Note& note : all) text += note.whole();
    spit(directory + "/checkpoints", text);
  }
  // With every key there ever was (`epoch_keys`: PEM by epoch) all checkpoints again over the leaves as they are now, each
  // with the key that was due. `use` may say another epoch's.
  void sign_again(const std::map<std::uint64_t, std::string>& epoch_keys,
                  const std::function<std::uint64_t(std::uint64_t)>& use = {}) const {
    const Leaves all = leaves();
    const std::string host = slurp(directory + "/host.key");
    const auto ed = PrivateKey::from_pem(KeyType::kEd25519, host);
    const auto ec = PrivateKey::from_pem(KeyType::kP256, host);
    std::vector<Note> notes = checkpoints();
    for (Note& note : notes) {
      auto c = parse_checkpoint(note.text);
      c->size = std::min<std::uint64_t>(c->size, all.size());
      c->root = root_of(all, c->size);
      const std::string name = note.lines.back().name;
      std::uint64_t epoch = std::stoull(name.substr(name.rfind('/') + 1));
      if (use) epoch = use(epoch);
      note.text = checkpoint_text(*c);
      note.lines = {sign_line(note.text, c->origin, *ed), sign_line(note.text, c->origin, *ec),
                    sign_line(note.text, c->origin + "/epoch/" + std::to_string(epoch),
                              *PrivateKey::from_pem(KeyType::kEd25519, epoch_keys.at(epoch)))};
    }
    write_checkpoints(notes);
  }
};

}  // namespace bulkhead::audit::test

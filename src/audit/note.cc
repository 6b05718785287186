#include "audit/note.h"

#include <charconv>
#include <cstdio>

namespace bulkhead::audit {
namespace {

constexpr std::string_view kDash = "\xe2\x80\x94 ";  // EM DASH and a space begin a signature line
constexpr std::size_t kMaxNote = 1u << 20, kMaxLines = 100;

std::uint32_t first_four(const Hash& h) noexcept {
  return std::uint32_t{h[0]} << 24 | std::uint32_t{h[1]} << 16 | std::uint32_t{h[2]} << 8 | h[3];
}

std::uint32_t id_of(const std::string& name, LineType type, const Buffer& key) {
  if (type == LineType::kEcdsa) return first_four(sha256(key));
  Buffer text{name.begin(), name.end()};
  text.push_back('\n');
  text.push_back(static_cast<std::uint8_t>(type));
  text.insert(text.end(), key.begin(), key.end());
  return first_four(sha256(text));
}

bool good_name(std::string_view name) {
  if (name.empty()) return false;
  for (const char c : name) {
    if (c == '+' || static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return false;
  }
  return true;
}

std::string_view take_line(std::string_view& rest) {
  const std::size_t end = rest.find('\n');
  if (end == std::string_view::npos) return {};
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  return line;
}

std::optional<SignatureLine> parse_line(std::string_view line) {
  line.remove_prefix(kDash.size());
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || !good_name(line.substr(0, space))) return std::nullopt;
  auto bytes = from_base64(line.substr(space + 1));
  if (!bytes || bytes->size() < 5) return std::nullopt;
  SignatureLine out;
  out.name = line.substr(0, space);
  for (std::size_t i = 0; i < 4; ++i) out.id = out.id << 8 | (*bytes)[i];
  out.signature.assign(bytes->begin() + 4, bytes->end());
  return out;
}

// What a cosignature signs (c2sp.org/tlog-cosignature, "cosignature/v1").
std::string cosigned_text(const std::string& text, std::uint64_t unix_s) {
  return "cosignature/v1\ntime " + std::to_string(unix_s) + "\n" + text;
}

}  // namespace

VerifierKey verifier_key(const std::string& name, LineType type, PublicKey key) {
  const std::uint32_t id = id_of(name, type, key.bytes());
  return {name, id, type, std::move(key)};
}

std::optional<VerifierKey> parse_vkey(std::string_view text) {
  const std::size_t plus = text.find('+');
  if (plus == std::string_view::npos || text.size() < plus + 10 || text[plus + 9] != '+')
    return std::nullopt;
  const std::string_view digits = text.substr(plus + 1, 8);
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + 8, id, 16);
  const auto bytes = from_base64(text.substr(plus + 10));
  if (error != std::errc{} || end != digits.data() + 8 || !bytes || bytes->empty() ||
      !good_name(text.substr(0, plus)))
    return std::nullopt;
  const auto type = static_cast<LineType>((*bytes)[0]);
  if (type != LineType::kEd25519 && type != LineType::kEcdsa && type != LineType::kCosignature)
    return std::nullopt;
  auto key = PublicKey::of(type == LineType::kEcdsa ? KeyType::kP256 : KeyType::kEd25519,
                           Bytes{*bytes}.subspan(1));
  if (!key) return std::nullopt;
  VerifierKey out = verifier_key(std::string{text.substr(0, plus)}, type, std::move(*key));
  if (out.id != id) return std::nullopt;
  return out;
}

std::string vkey_text(const VerifierKey& key) {
  char id[16];
  std::snprintf(id, sizeof id, "+%08x+", key.id);
  Buffer bytes{static_cast<std::uint8_t>(key.type)};
  bytes.insert(bytes.end(), key.key.bytes().begin(), key.key.bytes().end());
  return key.name + id + base64(bytes);
}

std::string signature_text(const SignatureLine& line) {
  Buffer bytes;
  for (int shift = 24; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<std::uint8_t>(line.id >> shift));
  bytes.insert(bytes.end(), line.signature.begin(), line.signature.end());
  return std::string{kDash} + line.name + " " + base64(bytes) + "\n";
}

std::string Note::whole() const {
  std::string out = text + "\n";
  for (const SignatureLine& line : lines) out += signature_text(line);
  return out;
}

std::optional<Note> parse_note(std::string_view all, std::size_t& used) {
  all = all.substr(0, kMaxNote);
  const std::size_t end = all.find("\n\n");
  if (end == std::string_view::npos || end == 0) return std::nullopt;
  Note note;
  note.text = all.substr(0, end + 1);
  for (const char c : note.text) {
    if (static_cast<unsigned char>(c) < ' ' && c != '\n') return std::nullopt;
  }
  std::string_view rest = all.substr(end + 2);
  while (rest.starts_with(kDash)) {
    const std::string_view line = take_line(rest);
    if (line.empty() || note.lines.size() == kMaxLines) return std::nullopt;
    auto parsed = parse_line(line);
    if (!parsed) return std::nullopt;
    note.lines.push_back(std::move(*parsed));
  }
  if (note.lines.empty()) return std::nullopt;
  used = all.size() - rest.size();
  return note;
}

LineState check_line(const Note& note, const SignatureLine& line, const VerifierKey& key) {
  if (line.name != key.name || line.id != key.id) return LineState::kOther;
  if (key.type != LineType::kCosignature)
    return key.key.verify(bytes_of(note.text), line.signature) ? LineState::kGood : LineState::kBad;
  if (line.signature.size() != 8 + 64) return LineState::kBad;
  std::uint64_t unix_s = 0;
  for (std::size_t i = 0; i < 8; ++i) unix_s = unix_s << 8 | line.signature[i];
  return key.key.verify(bytes_of(cosigned_text(note.text, unix_s)),
                        Bytes{line.signature}.subspan(8))
             ? LineState::kGood
             : LineState::kBad;
}

LineState check_note(const Note& note, const VerifierKey& key) {
  LineState best = LineState::kOther;
  for (const SignatureLine& line : note.lines) {
    const LineState state = check_line(note, line, key);
    if (state == LineState::kBad) return state;
    if (state == LineState::kGood) best = state;
  }
  return best;
}

SignatureLine sign_line(const std::string& text, const std::string& name, const PrivateKey& key) {
  const LineType type = key.type() == KeyType::kP256 ? LineType::kEcdsa : LineType::kEd25519;
  return {name, id_of(name, type, key.public_key().bytes()), key.sign(bytes_of(text))};
}

SignatureLine cosign_line(const std::string& text, const std::string& name, const PrivateKey& key,
                          std::uint64_t unix_s) {
  Buffer bytes;
  for (int shift = 56; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<std::uint8_t>(unix_s >> shift));
  const Buffer signature = key.sign(bytes_of(cosigned_text(text, unix_s)));
  bytes.insert(bytes.end(), signature.begin(), signature.end());
  return {name, id_of(name, LineType::kCosignature, key.public_key().bytes()), std::move(bytes)};
}

std::string checkpoint_text(const Checkpoint& c) {
  return c.origin + "\n" + std::to_string(c.size) + "\n" + base64(c.root) + "\n";
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() ||
      (text.size() > 1 && text[0] == '0'))
    return std::nullopt;
  return value;
}

std::optional<Checkpoint> parse_checkpoint(std::string_view text) {
  Checkpoint out;
  out.origin = take_line(text);
  const auto size = parse_decimal(take_line(text));
  const auto root = hash_from_base64(take_line(text));
  if (out.origin.empty() || !size || !root) return std::nullopt;
  out.size = *size;
  out.root = *root;
  return out;
}

}  // namespace bulkhead::audit

// Signed notes (c2sp.org/signed-note), checkpoints (c2sp.org/tlog-checkpoint) and verifier keys.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/key.h"

namespace bulkhead::audit {

// Signature types of C2SP: 1 Ed25519, 2 ECDSA, 4 cosignature/v1.
enum class LineType : std::uint8_t { kEd25519 = 1, kEcdsa = 2, kCosignature = 4 };

struct VerifierKey {
  std::string name;
  std::uint32_t id = 0;
  LineType type{};
  PublicKey key;
};
[[nodiscard]] VerifierKey verifier_key(const std::string& name, LineType type, PublicKey key);
// "name+0123abcd+base64", or none if the text is not one or its id is not its key's.
[[nodiscard]] std::optional<VerifierKey> parse_vkey(std::string_view text);
[[nodiscard]] std::string vkey_text(const VerifierKey& key);

struct SignatureLine {
  std::string name;
  std::uint32_t id = 0;
  Buffer signature;
};
struct Note {
  std::string text;  // what is signed, with its last newline
  std::vector<SignatureLine> lines;
  [[nodiscard]] std::string whole() const;
};
// The note at the beginning of `all`; `used` is where the next begins. None: torn or not a note.
[[nodiscard]] std::optional<Note> parse_note(std::string_view all, std::size_t& used);
[[nodiscard]] std::string signature_text(const SignatureLine& line);

// How a line stands to a key: not this key's, good, or this key's and wrong.
enum class LineState : std::uint8_t { kOther, kGood, kBad };
[[nodiscard]] LineState check_line(const Note& note, const SignatureLine& line,
                                   const VerifierKey& key);
// Best of all lines: kBad if one bears this key's name and id and is wrong.
[[nodiscard]] LineState check_note(const Note& note, const VerifierKey& key);
[[nodiscard]] SignatureLine sign_line(const std::string& text, const std::string& name,
                                      const PrivateKey& key);
// cosignature/v1 (c2sp.org/tlog-cosignature) at `unix_s`.
[[nodiscard]] SignatureLine cosign_line(const std::string& text, const std::string& name,
                                        const PrivateKey& key, std::uint64_t unix_s);

struct Checkpoint {
  std::string origin;
  std::uint64_t size = 0;
  Hash root{};
};
[[nodiscard]] std::string checkpoint_text(const Checkpoint& checkpoint);
// Extension lines are let through.
[[nodiscard]] std::optional<Checkpoint> parse_checkpoint(std::string_view text);
// A decimal number as C2SP writes it: no sign, no leading zero.
[[nodiscard]] std::optional<std::uint64_t> parse_decimal(std::string_view text);

}  // namespace bulkhead::audit

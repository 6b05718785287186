// `bulkhead sniff`: one line on an inherited pipe for each name that is resolved through a door.
// docs/formats/doors.md has the line's format.
#pragma once

namespace bulkhead::hook {

enum class Door : unsigned char { kDlsym, kDlvsym, kProcAddress };
enum class Answer : unsigned char { kNone, kDriver, kOurs };

// Does nothing unless BULKHEAD_SNIFF names a pipe. `version` is cuGetProcAddress's, else 0.
void sniff(Door door, const char* name, int version, Answer answer) noexcept;

}  // namespace bulkhead::hook

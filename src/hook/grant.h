// The tenant's grant table in this process (docs/formats/grant.md, 'How it comes and goes'): when it is mapped, and that it goes with a
// fork. What the audit asks of it is grant_check() of audit_grant.h.
#pragma once

namespace bulkhead::hook {

// The process's own thread, each second: maps the table anew when a new daemon has taken the region over, and nothing if no transfer has
// asked for a grant yet.
void grant_second() noexcept;
// Another daemon writes another table.
void grant_table_is_old() noexcept;
// In a fork's child: the mapping is not there any more.
void grant_forked_child() noexcept;

}  // namespace bulkhead::hook

// An event as an RFC 5424 message, and octet counting (RFC 6587 3.4.1, RFC 5425 4.3). Pure.
#pragma once
#include <string>

#include "daemon/siem/ocsf.h"

namespace bulkhead::daemon::siem {

// "<PRI>1 TIME HOST bulkheadd - MSGID [bulkhead@PEN uid="..."] JSON", facility 13; ASCII, without a newline.
[[nodiscard]] std::string syslog_message(const Event& event, const std::string& host,
                                         std::uint32_t enterprise);
// "LENGTH SP MESSAGE".
[[nodiscard]] std::string octet_counted(const std::string& message);
// A host's name as the header takes it: printable ASCII, at most 255; "-" if there is none.
[[nodiscard]] std::string header_host(const std::string& name);

}  // namespace bulkhead::daemon::siem

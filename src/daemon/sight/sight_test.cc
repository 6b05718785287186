#include "daemon/sight/sight.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "daemon/sight/console.h"
#include "daemon/sight/exposition.h"
#include "daemon/sight/history.h"
#include "daemon/sight/http.h"
#include "daemon/sight/metrics.h"
#include "daemon/sight/picture_reader.h"
#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kS = 1'000'000'000;

TEST(Text, IsMadeHarmless) {
  EXPECT_EQ(clean_text("a\nb\x1b[31m\x7f"), "a?b?[31m?");
  EXPECT_EQ(clean_text("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(clean_text("\xff\xc3"), "??");            // no character, half a character
  EXPECT_EQ(clean_text("\xc0\xaf"), "??");            // overlong '/'
  EXPECT_EQ(clean_text("\xed\xa0\x80"), "???");       // a surrogate
  EXPECT_EQ(clean_text("\xf4\x90\x80\x80"), "????");  // above U+10FFFF
  EXPECT_EQ(clean_text("a\xe2\x80\xae"
                       "b"),
            "a?b");  // turns the text around
  EXPECT_EQ(clean_text("a\xc2\x85"
                       "b"),
            "a?b");  // a C1 control
  EXPECT_EQ(label_text("q\"b\\n\n"), "q\\\"b\\\\n?");
}

TEST(Text, SecretsAreComparedWhole) {
  EXPECT_TRUE(same_secret("abc", "abc"));
  EXPECT_FALSE(same_secret("abc", "abd"));
  EXPECT_FALSE(same_secret("abc", "ab"));
  EXPECT_FALSE(same_secret("", "a"));
}

TEST(Exposition, TheTwoFormatsDiffer) {
  for (const Format format : {Format::kOpenMetrics, Format::kPrometheus}) {
    Exposition out{format};
    out.family(Type::kCounter, "x_seconds", "seconds", "X.");
    out.sample({{"a", "1"}, {"unknown", ""}}, 0.5);
    const std::string text = out.finish();
    EXPECT_EQ(text,
              format == Format::kOpenMetrics
                  ? "# HELP x_seconds X.\n# TYPE x_seconds counter\n# UNIT x_seconds seconds\n"
                    "x_seconds_total{a=\"1\"} 0.5\n# EOF\n"
                  : "# HELP x_seconds_total X.\n# TYPE x_seconds_total counter\n"
                    "x_seconds_total{a=\"1\"} 0.5\n");
  }
}

TEST(Metrics, WithoutAPictureOnlyUp) {
  EXPECT_EQ(render_metrics({}, Format::kPrometheus).substr(0, 18), "# HELP bulkhead_up");
  EXPECT_NE(render_metrics({}, Format::kOpenMetrics).find("\nbulkhead_up 0\n# EOF\n"),
            std::string::npos);
}

int status_of(std::string_view text) {
  HttpRequest request;
  int status = 0;
  const HttpParse parsed = parse_request(text, request, status);
  return parsed == HttpParse::kMore ? -1 : parsed == HttpParse::kDone ? 200 : status;
}

TEST(Http, OneRequest) {
  HttpRequest r;
  int status = 0;
  ASSERT_EQ(parse_request(
                "HEAD /a?b=c HTTP/1.1\r\nhOST: localhost:1 \r\nAuthorization: bearer  xyz\r\n\r\n",
                r, status),
            HttpParse::kDone);
  EXPECT_TRUE(r.head);
  EXPECT_EQ(r.path, "/a");
  EXPECT_EQ(r.host, "localhost:1");
  EXPECT_EQ(r.bearer, "xyz");
}

TEST(Http, Refusals) {
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n"), -1);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n\r\n"), 200);
  EXPECT_EQ(status_of("GET / HTTP/1.1\n\n"), -1);  // a bare line feed ends nothing
  EXPECT_EQ(status_of("POST / HTTP/1.1\r\n\r\n"), 405);
  EXPECT_EQ(status_of("GET /\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET  / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/3\r\n\r\n"), 505);
  EXPECT_EQ(status_of("GET / FTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nA : b\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nno colon\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"), 413);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), 200);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
  EXPECT_EQ(status_of(std::string(kMaxRequestBytes, 'x')), 431);
}

TEST(Http, OnlyOurOwnNames) {
  EXPECT_TRUE(host_is_ours("127.0.0.1:9478", 9478));
  EXPECT_TRUE(host_is_ours("LOCALHOST:9478", 9478));
  EXPECT_TRUE(host_is_ours("[::1]:9478", 9478));
  for (const char* host : {"", "127.0.0.1", "127.0.0.1:9477", "127.0.0.1.evil.example:9478",
                           "localhost.:9478", "0.0.0.0:9478", "localhost:09478"}) {
    EXPECT_FALSE(host_is_ours(host, 9478)) << host;
  }
}

struct PictureFile {
  int fd = ::memfd_create("picture", 0);
  wire::Picture* at = nullptr;
  PictureFile() {
    EXPECT_EQ(::ftruncate(fd, sizeof(wire::Picture)), 0);
    at = static_cast<wire::Picture*>(
        ::mmap(nullptr, sizeof(wire::Picture), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  }
  PictureFile(const PictureFile&) = delete;
  PictureFile& operator=(const PictureFile&) = delete;
  ~PictureFile() {
    ::munmap(at, sizeof(wire::Picture));
    ::close(fd);
  }
  void write(std::uint32_t tenants) {
    at->sequence.begin_write();
    at->magic = wire::kPictureMagic;
    at->bytes = sizeof(wire::Picture);
    at->tenants = tenants;
    at->sequence.end_write();
  }
};

TEST(PictureReader, TakesWholePicturesAndKnowsTheirAge) {
  PictureFile file;
  PictureReader reader;
  ASSERT_TRUE(reader.open(file.fd).ok());
  EXPECT_FALSE(reader.refresh(0));  // nothing written yet
  EXPECT_EQ(reader.copy(), nullptr);
  EXPECT_FALSE(reader.fresh(0));
  file.write(3);
  EXPECT_TRUE(reader.refresh(1 * kS));
  EXPECT_EQ(reader.copy()->tenants, 3u);
  EXPECT_FALSE(reader.refresh(2 * kS));  // the same
  EXPECT_TRUE(reader.fresh(5 * kS));
  EXPECT_FALSE(reader.fresh(6 * kS));
  file.at->sequence.begin_write();  // a writer that was killed here
  file.at->tenants = 9;
  EXPECT_FALSE(reader.refresh(7 * kS));
  EXPECT_EQ(reader.copy()->tenants, 3u);
  EXPECT_EQ(reader.torn_reads(), 1u);
  file.write(4);  // its successor
  EXPECT_TRUE(reader.refresh(8 * kS));
  EXPECT_EQ(reader.copy()->tenants, 4u);
}

TEST(PictureReader, TrustsNoCount) {
  PictureFile file;
  std::memset(static_cast<void*>(file.at->tenant), 0xff, sizeof file.at->tenant);
  std::memset(static_cast<void*>(file.at->event), 0xff, sizeof file.at->event);
  file.at->devices = file.at->strays = file.at->event_count = 0xffff'ffff;
  file.at->next_event_id = ~std::uint64_t{0};
  file.write(0xffff'ffff);
  PictureReader reader;
  ASSERT_TRUE(reader.open(file.fd).ok());
  ASSERT_TRUE(reader.refresh(kS));
  const wire::Picture& p = *reader.copy();
  EXPECT_EQ(p.tenants, wire::kPictureTenants);
  EXPECT_EQ(p.devices, wire::kMaxDevices);
  EXPECT_EQ(p.tenant[0].device_count, wire::kMaxDevices);
  EXPECT_EQ(p.tenant[0].name[wire::kNameBytes - 1], 0);
  EXPECT_FALSE(console_state({&p, true, 0}).empty());
  EXPECT_FALSE(render_metrics({&p, true, 0, true, true}, Format::kOpenMetrics).empty());
}

TEST(PictureReader, RefusesAnotherFile) {
  const int fd = ::memfd_create("small", 0);
  PictureReader reader;
  EXPECT_EQ(reader.open(fd).code(), Errc::kBadSize);
  ::close(fd);
  PictureFile file;
  file.write(1);
  file.at->magic = 7;
  ASSERT_TRUE(reader.open(file.fd).ok());
  EXPECT_FALSE(reader.refresh(kS));
}

TEST(History, KeepsAQuarterOfAnHourAndItsGaps) {
  auto p = std::make_unique<wire::Picture>();
  p->devices = 1;
  History history;
  const std::uint64_t start = 1'000'000 * kS;
  for (unsigned i = 0; i < 10; ++i) {
    p->device[0].used_bytes = std::uint64_t{i} << 20;
    history.sample(start + i * 5 * kS, i == 7 ? nullptr : p.get());  // no picture at step 7
  }
  ASSERT_EQ(history.series().size(), 1u);
  const Series* s = &history.series().begin()->second;
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 0), 9u);
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 2), kNoPoint);
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 9), 0u);
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 10), kNoPoint);
  // Ten minutes of silence are a gap; a quarter of an hour of it and the series is gone.
  history.sample(start + (45 + 600) * kS, p.get());
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 1), kNoPoint);
  EXPECT_EQ(History::at(s->used_mib, history.tick(), 120), 9u);
  p->devices = 0;
  history.sample(start + (45 + 600 + 905) * kS, p.get());
  EXPECT_TRUE(history.series().empty());
}

}  // namespace
}  // namespace bulkhead::daemon

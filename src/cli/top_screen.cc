#include "cli/top_screen.h"

#ifdef BH_CURSES
#include <curses.h>

#include <algorithm>
#include <clocale>
#include <cstdlib>

#include "base/clock.h"
#include "cli/top_text.h"
#endif
#include "cli/say.h"

namespace bulkhead::cli {

#ifdef BH_CURSES
namespace {

constexpr short kWarnPair = 1;
constexpr short kAlarmPair = 2;
constexpr short kTitlePair = 3;

class Screen {
 public:
  Screen() : handle_(::newterm(nullptr, stdout, stdin)) {
    if (handle_ == nullptr) return;
    ::cbreak();
    ::noecho();
    ::keypad(stdscr, TRUE);
    ::curs_set(0);
    const char* plain = std::getenv("NO_COLOR");  // no-color.org: set and not empty
    colour_ = (plain == nullptr || *plain == 0) && ::has_colors() && ::start_color() == OK;
    if (!colour_) return;
    const int back = ::use_default_colors() == OK ? -1 : COLOR_BLACK;
    ::init_pair(kWarnPair, COLOR_YELLOW, static_cast<short>(back));
    ::init_pair(kAlarmPair, COLOR_RED, static_cast<short>(back));
    ::init_pair(kTitlePair, COLOR_CYAN, static_cast<short>(back));
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() {
    if (handle_ == nullptr) return;
    ::endwin();
    ::delscreen(handle_);
  }
  [[nodiscard]] bool ok() const { return handle_ != nullptr; }

  void line(int y, const Line& what) const {
    const attr_t how = attributes(what.style);
    ::wmove(stdscr, y, 0);
    ::wattrset(stdscr, static_cast<int>(how));
    ::waddnstr(stdscr, what.text.c_str(), COLS);
    if (what.style == Style::kHead) {  // to the edge
      for (int x = static_cast<int>(what.text.size()); x < COLS; ++x) ::waddch(stdscr, ' ');
    }
    ::wattrset(stdscr, A_NORMAL);
  }

 private:
  [[nodiscard]] attr_t attributes(Style style) const {
    const auto coloured = [&](short pair, attr_t more) {
      return colour_ ? static_cast<attr_t>(COLOR_PAIR(pair)) | more : more;
    };
    switch (style) {
      case Style::kTitle:
        return coloured(kTitlePair, A_BOLD);
      case Style::kHead:
        return A_REVERSE;
      case Style::kSoft:
        return A_DIM;
      case Style::kWarn:
        return coloured(kWarnPair, A_BOLD);
      case Style::kAlarm:
        return coloured(kAlarmPair, A_BOLD);
      default:
        return A_NORMAL;
    }
  }

  SCREEN* handle_;
  bool colour_ = false;
};

struct State {
  TopView view;
  int first = 0;  // line of the body at the top
  bool help = false;
  bool over = false;
};

void draw(const Screen& screen, const TopPicture& picture, State& state) {
  state.view.width = static_cast<std::size_t>(std::max(COLS, 20));
  ::werase(stdscr);
  const auto head = head_lines(picture, state.view);
  const auto body = state.help ? help_lines() : body_lines(picture, state.view);
  int y = 0;
  for (const Line& l : head) {
    if (y < LINES - 1) screen.line(y++, l);
  }
  const int room = std::max(LINES - 1 - y, 0);
  const int most = std::max(static_cast<int>(body.size()) - room, 0);
  state.first = std::clamp(state.first, 0, most);
  for (int i = 0; i < room && i + state.first < static_cast<int>(body.size()); ++i) {
    screen.line(y + i, body[static_cast<std::size_t>(i) + static_cast<std::size_t>(state.first)]);
  }
  constexpr const char* kSorts[] = {"used", "limit", "name"};
  std::string foot = "q end  h help  u m n sort (";
  foot += kSorts[static_cast<int>(state.view.sort)];
  foot += ")  p processes";
  if (most > 0) foot += "  arrows scroll";
  screen.line(LINES - 1, {foot, Style::kHead});
  ::wrefresh(stdscr);
}

void key(int pressed, State& state) {
  const bool was_help = state.help;
  state.help = false;
  switch (pressed) {
    case 'q':
      state.over = true;
      break;
    case 'h':
    case '?':
      state.help = !was_help;
      state.first = 0;
      break;
    case 'u':
      state.view.sort = TopSort::kUsed;
      break;
    case 'm':
      state.view.sort = TopSort::kLimit;
      break;
    case 'n':
      state.view.sort = TopSort::kName;
      break;
    case 'p':
      state.view.processes = !state.view.processes;
      break;
    case KEY_UP:
      --state.first;
      break;
    case KEY_DOWN:
      ++state.first;
      break;
    case KEY_PPAGE:
      state.first -= LINES / 2;
      break;
    case KEY_NPAGE:
      state.first += LINES / 2;
      break;
    case KEY_HOME:
      state.first = 0;
      break;
    case KEY_END:
      state.first = 1 << 20;
      break;
    case KEY_RESIZE:
      state.help = was_help;
      break;
    default:
      break;
  }
}

}  // namespace

int top_screen(const std::function<TopPicture()>& look_again, double delay_s) {
  (void)std::setlocale(LC_CTYPE, "");
  const Screen screen;
  if (!screen.ok()) {
    const char* term = std::getenv("TERM");
    return fail(kExitProblem, std::string{"terminal '"} + (term == nullptr ? "" : term) +
                                  "' is not known here; try TERM=vt100, or 'bulkhead top --batch'");
  }
  State state;
  const auto delay_ms = static_cast<std::uint64_t>(delay_s * 1000);
  while (!state.over) {
    const TopPicture picture = look_again();
    const std::uint64_t due_ms = monotonic_ns() / 1'000'000 + delay_ms;
    for (bool again = false; !state.over && !again;) {
      draw(screen, picture, state);
      const std::uint64_t now_ms = monotonic_ns() / 1'000'000;
      if (now_ms >= due_ms) break;
      ::wtimeout(stdscr, static_cast<int>(due_ms - now_ms));
      const int pressed = ::wgetch(stdscr);
      again = pressed == ERR;
      if (!again) key(pressed, state);
    }
  }
  return kExitOk;
}
#else
int top_screen(const std::function<TopPicture()>&, double) {
  return fail(kExitProblem, "built without curses: use 'bulkhead top --batch'");
}
#endif

}  // namespace bulkhead::cli

#include "cli/words.h"

#include <algorithm>
#include <set>

#include "cli/remote.h"

namespace bulkhead::cli {
namespace {

bool is_option(const std::string& word) { return word.size() > 1 && word[0] == '-'; }
bool takes_value(const CLI::Option& o) { return o.get_items_expected_max() > 0; }
bool may_take_value(const CLI::Option& o) { return !o.get_fnames().empty(); }  // --sim{h200}
bool is_positional(const CLI::Option* o) {
  return o->get_lnames().empty() && o->get_snames().empty();
}

const CLI::Option* find(const CLI::App& app, const std::string& name) {
  return is_option(name) ? app.get_option_no_throw(name) : nullptr;
}

// Behind a flag that may have a value, a word that starts a command looks otherwise.
bool looks_like_its_value(const std::string& name, const std::string& word) {
  std::uint64_t ms = 0;
  return name == "--wait" ? parse_wait(word, ms) : word.starts_with("h200");
}

struct Looker {
  const CLI::App& app;
  const std::vector<std::string>& words;
  bool dashes;
  bool runs_command;  // its first bare word begins a command
  std::set<const CLI::Option*> seen = {};

  // The word at `i` and what belongs to it; `i` goes on to the next.
  std::string look(std::size_t& i) {
    const std::string word = words[i++];
    const std::size_t equals = word.starts_with("--") ? word.find('=') : std::string::npos;
    const std::string name = word.substr(0, equals);
    const CLI::Option* o = find(app, name);
    if (o == nullptr) return {};
    if (takes_value(*o) && !seen.insert(o).second) return name + " is there twice: leave one out";
    if (equals != std::string::npos) return behind_equals(*o, name, word.substr(equals + 1));
    const std::string* next = i < words.size() ? &words[i] : nullptr;
    if (takes_value(*o)) {
      const std::string kind = o->get_type_name().substr(0, o->get_type_name().find(':'));
      if (next == nullptr || find(app, next->substr(0, next->find('='))) != nullptr)
        return name + " needs a value: write " + name + (name[1] == '-' ? "=" : " ") + kind;
      ++i;
      return {};
    }
    return next == nullptr || is_option(*next) ? "" : behind_flag(*o, name, i);
  }

  std::string behind_equals(const CLI::Option& o, const std::string& name,
                            const std::string& value) {
    if (!takes_value(o) && !may_take_value(o)) return name + " takes no value: write " + name;
    if (!value.empty()) return {};
    const std::string kind = o.get_type_name().substr(0, o.get_type_name().find(':'));
    return name + "= needs a value: write " + name +
           (takes_value(o) ? "=" + kind : ", or a value behind the '='");
  }

  // `words[i]` is bare and stands behind the flag `o`.
  std::string behind_flag(const CLI::Option& o, const std::string& name, std::size_t i) {
    const std::string& next = words[i];
    const bool last = i + 1 == words.size();
    const bool goes_on = !last && find(app, words[i + 1].substr(0, words[i + 1].find('='))) !=
                                      nullptr;  // options of ours follow
    if (may_take_value(o)) {
      const bool misplaced = runs_command ? dashes && (last || goes_on) : !has_positional();
      if (!misplaced && !looks_like_its_value(name, next)) return {};
      std::string text = name + " takes its value with '=': write " + name + "=" + next;
      return runs_command && !dashes ? text + " (or -- before a command " + next + ")" : text;
    }
    const bool misplaced = runs_command ? dashes && goes_on : !has_positional();
    return misplaced ? name + " takes no value: leave '" + next + "' out" : "";
  }
  bool has_positional() const {
    const auto options = app.get_options();
    return std::any_of(options.begin(), options.end(), is_positional);
  }
};

}  // namespace

std::string misused_word(const CLI::App& app, const std::vector<std::string>& words, bool dashes) {
  const auto first = std::find_if_not(words.begin(), words.end(), is_option);
  if (first == words.end()) return {};
  const auto named =
      app.get_subcommands([&](const CLI::App* a) { return a->get_name() == *first; });
  if (named.empty()) return {};
  Looker looker{*named[0], words, dashes, named[0]->get_prefix_command()};
  for (auto i = static_cast<std::size_t>(first - words.begin()) + 1; i < words.size();) {
    if (looker.runs_command && !is_option(words[i])) return {};
    if (std::string problem = looker.look(i); !problem.empty()) return problem;
  }
  return {};
}

}  // namespace bulkhead::cli

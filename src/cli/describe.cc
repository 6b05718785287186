#include "cli/describe.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace bulkhead::cli {
namespace {

using nlohmann::json;

json option_json(const CLI::Option& option) {
  json names = json::array();
  for (const std::string& s : option.get_snames()) names.push_back("-" + s);
  for (const std::string& l : option.get_lnames()) names.push_back("--" + l);
  const bool positional = names.empty();
  if (positional) names.push_back(option.get_name());
  const bool takes_value = option.get_items_expected_max() > 0;
  return {{"names", names},
          {"positional", positional},
          {"required", option.get_required()},
          {"value", takes_value ? option.get_type_name() : ""},
          {"optional_value", !option.get_fnames().empty()},  // --sim{h200}
          {"help", option.get_description()}};
}

json app_json(const CLI::App& app) {
  json options = json::array();
  json commands = json::array();
  for (const CLI::Option* o : app.get_options()) options.push_back(option_json(*o));
  for (const CLI::App* c : app.get_subcommands([](const CLI::App*) { return true; }))
    commands.push_back(app_json(*c));
  return {{"name", app.get_name()},
          {"help", app.get_description()},
          {"options", options},
          {"commands", commands}};
}

}  // namespace

int describe_grammar(const CLI::App& app) {
  std::printf("%s\n", app_json(app).dump(1).c_str());
  return 0;
}

}  // namespace bulkhead::cli

// `bulkhead __describe`: the command line's own grammar as JSON, from which the man page and the completions are made
// (tools/make_manual.py). Hidden from --help.
#pragma once
namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

int describe_grammar(const CLI::App& app);

}  // namespace bulkhead::cli

// JSON's class templates, instantiated once a build: read with the precompiled headers of the fuzz preset (clang, not optimised),
// where each of some fifty sources would make code of its own for them, and the tests would run it slowly.
#pragma once

#include <nlohmann/json.hpp>

#include <functional>
#include <map>
#include <string>
#include <vector>

#ifndef BH_ONCE
#define BH_ONCE extern
#endif

BH_ONCE template class nlohmann::basic_json<>;
BH_ONCE template class nlohmann::detail::serializer<nlohmann::json>;
BH_ONCE template class nlohmann::detail::json_sax_dom_parser<nlohmann::json>;
BH_ONCE template class nlohmann::detail::json_sax_dom_callback_parser<nlohmann::json>;
BH_ONCE template class std::vector<nlohmann::json>;
BH_ONCE template class std::map<std::string, nlohmann::json, std::less<>>;
BH_ONCE template class std::basic_string<char>;  // C++20 has none in the library
BH_ONCE template nlohmann::json nlohmann::json::parse(const std::string&, const nlohmann::json::parser_callback_t, bool, bool);
BH_ONCE template nlohmann::json nlohmann::json::parse(std::string&, const nlohmann::json::parser_callback_t, bool, bool);
BH_ONCE template nlohmann::json nlohmann::json::parse(std::string&&, const nlohmann::json::parser_callback_t, bool, bool);
BH_ONCE template nlohmann::json nlohmann::json::parse(std::string_view&, const nlohmann::json::parser_callback_t, bool, bool);
BH_ONCE template nlohmann::json nlohmann::json::parse(const std::string_view&, const nlohmann::json::parser_callback_t, bool, bool);

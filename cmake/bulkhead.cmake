# Helpers every folder's CMakeLists.txt uses. One target a folder, named bh_<folder>.

add_compile_options(-Wall -Wextra -Wshadow -Wconversion -Wno-missing-field-initializers -fvisibility=hidden
                    -fno-omit-frame-pointer)
if(BH_SAN OR BH_FUZZ)
  add_compile_options(-g1)  # reports name functions and lines, which is all they need
endif()
if(BH_SAN)
  add_compile_options(-fsanitize=${BH_SAN} -fno-sanitize-recover=all)
  if(BH_SAN MATCHES "undefined")
    add_compile_options(-fno-sanitize=vptr)  # asks for RTTI, which half of the code is built without
  endif()
  add_link_options(-fsanitize=${BH_SAN})
endif()
if(BH_KILL_POINTS)
  add_compile_definitions(BH_KILL_POINTS=1)
endif()
if(BH_FUZZ)
  # Objects of the fuzz targets and, the same ones, of the unit tests (`./dev asan`). vptr asks for RTTI.
  add_compile_options(-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=vptr -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()
# Tests, the simulator's clients and the command line run from the build tree only.
set(BH_NO_THROW -fno-exceptions -fno-rtti -fno-threadsafe-statics)

# Code that no call of a tenant waits for: GoogleTest's, JSON's and the command line's templates cost -O2 twice the time.
set(BH_COLD $<$<CONFIG:RelWithDebInfo>:-O1>)

# fmt, compiled once and linked in: a program of ours needs no library that a machine may lack. What fmt.cc
# instantiates is fmt 9's; with another one each source compiles all of it, at twice the price.
find_package(fmt REQUIRED)
if(fmt_VERSION VERSION_GREATER_EQUAL 9 AND fmt_VERSION VERSION_LESS 10)
  add_library(bh_fmt STATIC ${CMAKE_CURRENT_LIST_DIR}/fmt.cc)
  target_compile_options(bh_fmt PRIVATE ${BH_COLD})
else()
  add_library(bh_fmt INTERFACE)
  target_link_libraries(bh_fmt INTERFACE fmt::fmt-header-only)
endif()

# GoogleTest's header is half of what a test costs to compile, the C++ library's a quarter of another source: read once a
# build. Not under a compiler cache, which gives an object back for less than looking at the 90 MB would take. Each source
# includes what it uses all the same.
if(CMAKE_CXX_COMPILER_LAUNCHER)
  option(BH_PCH "Precompile GoogleTest's and the C++ library's headers" OFF)
else()
  option(BH_PCH "Precompile GoogleTest's and the C++ library's headers" ON)
endif()
# clang reads of a precompiled header what a source uses; g++ pays for its size, so it gets what nearly all sources use.
set(BH_PCH_HEADERS <algorithm> <array> <atomic> <cstdint> <cstdio> <cstdlib> <cstring> <filesystem> <fstream> <functional> <map>
    <memory> <mutex> <optional> <set> <sstream> <string> <string_view> <thread> <utility> <vector>)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND BH_PCH_HEADERS <nlohmann/json.hpp>)
endif()

# bh_library(NAME [SOURCES f...] [DEPS target...]) : static library without exceptions or RTTI; include root is src/.
function(bh_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  if(A_SOURCES)
    add_library(${name} STATIC ${A_SOURCES})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
    target_compile_options(${name} PRIVATE ${BH_NO_THROW})
    target_link_libraries(${name} PUBLIC ${A_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${A_DEPS})
  endif()
endfunction()

set(BH_OWN_LEVEL "(^|;)-O[0-3](;|$)")  # optimised in another way than the rest: clang takes no header of others then

# bh_pch(TARGET [PROGRAM] [OPTIONS o...] HEADERS h...) : a target of nothing whose precompiled headers others read, if not
# there yet. A program's code is placed in another way than a library's (-fPIE), and the compilers look at that.
function(bh_pch name)
  cmake_parse_arguments(A "PROGRAM" "" "OPTIONS;HEADERS" ${ARGN})
  if(NOT TARGET ${name})
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/pch.cc CONTENT "int main() {}\n")
    if(A_PROGRAM)
      add_executable(${name} EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/pch.cc)
      set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
      target_link_libraries(${name} PRIVATE GTest::gtest)
    else()
      add_library(${name} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/pch.cc)
    endif()
    target_compile_options(${name} PRIVATE ${A_OPTIONS})
    target_precompile_headers(${name} PRIVATE ${A_HEADERS})
  endif()
endfunction()

# The tests' own sources of a target made with BH_COLD.
function(bh_test_header name)
  get_target_property(options ${name} COMPILE_OPTIONS)
  if(NOT BH_PCH OR "${options}" MATCHES "${BH_OWN_LEVEL}")
    return()
  endif()
  bh_pch(bh_test_pch PROGRAM OPTIONS ${BH_COLD} HEADERS <gtest/gtest.h> ${BH_PCH_HEADERS})
  target_precompile_headers(${name} REUSE_FROM bh_test_pch)
  list(FILTER ARGN EXCLUDE REGEX "_test\\.cc$|TARGET_OBJECTS")
  if(ARGN)
    set_source_files_properties(${ARGN} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
  endif()
endfunction()

# bh_test(NAME SOURCES f... [DEPS target...] [LABEL unit|e2e|storm|abi] [TIMEOUT s] [FAST]) : a GoogleTest program and its ctest line.
# FAST: its own source is optimised as the library is, because what it tests are races between inlined operations.
function(bh_test name)
  cmake_parse_arguments(A "FAST" "LABEL;TIMEOUT" "SOURCES;DEPS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT A_FAST)
    target_compile_options(${name} PRIVATE ${BH_COLD})
  endif()
  if(NOT A_FAST OR BH_FUZZ)
    bh_test_header(${name} ${A_SOURCES})
  endif()
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${A_TIMEOUT})
  # tests_unit, tests_e2e ...: what a sanitizer build needs, without the shipped libraries.
  if(NOT TARGET tests_${A_LABEL})
    add_custom_target(tests_${A_LABEL})
  endif()
  add_dependencies(tests_${A_LABEL} ${name})
endfunction()

# bh_fuzz(NAME SOURCES f... [DEPS target...]) : a libFuzzer program in build/fuzz/fuzz/, run by `./dev fuzz`.
function(bh_fuzz name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT BH_FUZZ)
    return()
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
endfunction()

# bh_precompile(FOLDER) : the libraries below FOLDER read the C++ library's headers precompiled. Last in the build:
# it goes by the options each target was given.
function(bh_precompile folder)
  if(NOT BH_PCH)
    return()
  endif()
  get_property(targets DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
  foreach(name IN LISTS targets)
    get_target_property(type ${name} TYPE)
    get_target_property(has ${name} PRECOMPILE_HEADERS)
    get_target_property(reads ${name} PRECOMPILE_HEADERS_REUSE_FROM)
    get_target_property(options ${name} COMPILE_OPTIONS)
    get_target_property(sources ${name} SOURCES)
    if(has OR reads OR "${options}" MATCHES "${BH_OWN_LEVEL}" OR NOT type MATCHES "STATIC_LIBRARY|OBJECT_LIBRARY" OR "${sources}" MATCHES "\\.(c|S)(;|$)")
      continue()
    endif()
    if("${options}" MATCHES "-fno-exceptions")
      if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")  # g++ would pay more than it saves: these include little
        bh_pch(bh_bare_pch OPTIONS ${BH_NO_THROW} HEADERS ${BH_PCH_HEADERS})
        target_precompile_headers(${name} REUSE_FROM bh_bare_pch)
      endif()
    elseif("${options}" MATCHES "RelWithDebInfo>:-O1")
      bh_pch(bh_cold_pch OPTIONS ${BH_COLD} HEADERS ${BH_PCH_HEADERS})
      target_precompile_headers(${name} REUSE_FROM bh_cold_pch)
    else()
      bh_pch(bh_warm_pch HEADERS ${BH_PCH_HEADERS})
      target_precompile_headers(${name} REUSE_FROM bh_warm_pch)
    endif()
  endforeach()
  get_property(below DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(one IN LISTS below)
    bh_precompile(${one})
  endforeach()
endfunction()

// What the client programs print: "KEY VALUE" lines, read back by the tests.
#pragma once
#include <cstdio>

#include "abi/cuda_types.h"

using TotalMem = CUresult (*)(size_t*, CUdevice);
using Init = CUresult (*)(unsigned);
using ProcAddress = CUresult (*)(const char*, void**, int, cuuint64_t,
                                 CUdriverProcAddressQueryResult*);

inline void say(const char* key, unsigned long long value) { std::printf("%s %llu\n", key, value); }

// Macros that turn the (type, arg) pairs of a .def line into a parameter list, an argument list or
// a type list.
//     BH_PARAMS((int, a), (char*, b)) -> int a, char* b      (nothing for no pair)
//     BH_ARGS  ((int, a), (char*, b)) -> a, b
//     BH_TYPES ((int, a), (char*, b)) -> int, char*
// At most 16 pairs, which is what the widest driver call (cuTensorMapEncodeIm2colWide) has.
#pragma once

#define BH_PARAM_(type, arg) type arg
#define BH_ARG_(type, arg) arg
#define BH_TYPE_(type, arg) type

#define BH_PARAMS(...) __VA_OPT__(BH_EACH_(BH_PARAM_, __VA_ARGS__))
#define BH_ARGS(...) __VA_OPT__(BH_EACH_(BH_ARG_, __VA_ARGS__))
#define BH_TYPES(...) __VA_OPT__(BH_EACH_(BH_TYPE_, __VA_ARGS__))
// How many pairs there are.
#define BH_COUNT(...) (0 __VA_OPT__(+BH_COUNT_(__VA_ARGS__)))

// clang-format off
#define BH_NTH_(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, n, ...) n
#define BH_COUNT_(...) BH_NTH_(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
#define BH_JOIN_(a, b) BH_JOIN2_(a, b)
#define BH_JOIN2_(a, b) a##b
#define BH_EACH_(m, ...) BH_JOIN_(BH_EACH_, BH_COUNT_(__VA_ARGS__))(m, __VA_ARGS__)
#define BH_EACH_1(m, p) m p
#define BH_EACH_2(m, p, ...) m p, BH_EACH_1(m, __VA_ARGS__)
#define BH_EACH_3(m, p, ...) m p, BH_EACH_2(m, __VA_ARGS__)
#define BH_EACH_4(m, p, ...) m p, BH_EACH_3(m, __VA_ARGS__)
#define BH_EACH_5(m, p, ...) m p, BH_EACH_4(m, __VA_ARGS__)
#define BH_EACH_6(m, p, ...) m p, BH_EACH_5(m, __VA_ARGS__)
#define BH_EACH_7(m, p, ...) m p, BH_EACH_6(m, __VA_ARGS__)
#define BH_EACH_8(m, p, ...) m p, BH_EACH_7(m, __VA_ARGS__)
#define BH_EACH_9(m, p, ...) m p, BH_EACH_8(m, __VA_ARGS__)
#define BH_EACH_10(m, p, ...) m p, BH_EACH_9(m, __VA_ARGS__)
#define BH_EACH_11(m, p, ...) m p, BH_EACH_10(m, __VA_ARGS__)
#define BH_EACH_12(m, p, ...) m p, BH_EACH_11(m, __VA_ARGS__)
#define BH_EACH_13(m, p, ...) m p, BH_EACH_12(m, __VA_ARGS__)
#define BH_EACH_14(m, p, ...) m p, BH_EACH_13(m, __VA_ARGS__)
#define BH_EACH_15(m, p, ...) m p, BH_EACH_14(m, __VA_ARGS__)
#define BH_EACH_16(m, p, ...) m p, BH_EACH_15(m, __VA_ARGS__)
// clang-format on

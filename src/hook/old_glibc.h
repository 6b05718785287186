// Included before every file of the library: binds the functions that glibc gave new versions since
// 2.17 to their old ones, so that a library built here loads there. Versions, not behaviour: all of
// them are the same code in glibc 2.34 and later, where libdl and libpthread became part of libc.
#pragma once

#if defined(__x86_64__)
#define BH_OLD_GLIBC(name) __asm__(".symver " #name "," #name "@GLIBC_2.2.5")
#elif defined(__aarch64__)
#define BH_OLD_GLIBC(name) __asm__(".symver " #name "," #name "@GLIBC_2.17")
#endif

BH_OLD_GLIBC(dladdr);
BH_OLD_GLIBC(dlopen);
BH_OLD_GLIBC(pthread_attr_destroy);
BH_OLD_GLIBC(pthread_attr_init);
BH_OLD_GLIBC(pthread_attr_setdetachstate);
BH_OLD_GLIBC(pthread_attr_setstacksize);
BH_OLD_GLIBC(pthread_create);
BH_OLD_GLIBC(pthread_key_create);
BH_OLD_GLIBC(pthread_setcancelstate);
BH_OLD_GLIBC(pthread_setspecific);
BH_OLD_GLIBC(pthread_sigmask);

#undef BH_OLD_GLIBC

// One library for every x86-64: the loader picks the AVX-512, AVX2 or baseline copy of a function.
#pragma once

// glibc's ifunc and the micro-architecture levels of GCC 12; elsewhere the baseline alone is compiled. The loader calls
// an ifunc's resolver before a sanitizer's runtime is ready: such builds define AMU_FAST_NO_CLONES.
#if !defined(AMU_FAST_NO_CLONES) && defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && \
    !defined(__clang__) && __GNUC__ >= 12
#define AMU_FAST_TARGET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AMU_FAST_TARGET_CLONES
#endif

// A template cannot be cloned; its body is inlined into a plain function that is.
#if defined(__GNUC__)
#define AMU_FAST_INLINE inline __attribute__((always_inline))
#define AMU_FAST_RESTRICT __restrict__
#else
#define AMU_FAST_INLINE inline
#define AMU_FAST_RESTRICT
#endif

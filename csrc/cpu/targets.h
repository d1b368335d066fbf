// Compiling one kernel source for several instruction sets in one file: what stands between BEGIN and END may use them.
//
//   XBRIDGE_BEGIN_TARGET("avx2,fma")
//   namespace avx2 {
//   #include "kernel.inl"        // includes nothing itself: an inline function of a header, compiled here, could be the
//   }                            // one that the linker keeps for every processor
//   XBRIDGE_END_TARGET
#pragma once

#define XBRIDGE_AVX2 "avx2,fma"
#define XBRIDGE_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,fma"

#define XBRIDGE_PRAGMA(words) _Pragma(#words)

#if defined(__clang__)
#define XBRIDGE_BEGIN_TARGET(names) \
  XBRIDGE_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define XBRIDGE_END_TARGET _Pragma("clang attribute pop")
#else
#define XBRIDGE_BEGIN_TARGET(names) _Pragma("GCC push_options") XBRIDGE_PRAGMA(GCC target(names))
#define XBRIDGE_END_TARGET _Pragma("GCC pop_options")
#endif

// Everywhere else products are rounded before they are added; kernels between these want fused multiply-adds.
#if defined(__clang__)
#define XBRIDGE_BEGIN_FUSED _Pragma("clang fp contract(fast)")
#define XBRIDGE_END_FUSED
#else
#define XBRIDGE_BEGIN_FUSED \
  _Pragma("GCC diagnostic ignored \"-Wpsabi\"") _Pragma("GCC push_options") _Pragma("GCC optimize(\"fp-contract=fast\")")
#define XBRIDGE_END_FUSED _Pragma("GCC pop_options")
#endif

#include "features.h"

#include <cstdlib>
#include <string>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace xbridge {
namespace {

#if defined(__x86_64__)
bool has_amx_bf16() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  if (!(d & amx_bf16) || !(d & amx_tile)) return false;
  // tile registers are large: the kernel grants them to a process on request (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA)
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

Isa detect() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && has_amx_bf16()) return Isa::amx;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

std::string cpu_features() { return name_of(best_isa()); }

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "portable";
  }
}

Isa best_isa() {
  static const Isa found = detect();
  const char* wanted = std::getenv("XBRIDGE_ISA");
  if (wanted == nullptr || *wanted == '\0') return found;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (std::string(wanted) == name_of(isa)) {
      STD_TORCH_CHECK(isa <= found, "XBRIDGE_ISA=", wanted, ", but this processor has ", name_of(found));
      return isa;
    }
  }
  STD_TORCH_CHECK(false, "XBRIDGE_ISA must be portable, avx2, avx512 or amx, not ", wanted);
  return found;
}

STABLE_TORCH_LIBRARY_IMPL(xbridge, CompositeExplicitAutograd, m) { m.impl("cpu_features", TORCH_BOX(&cpu_features)); }

}  // namespace xbridge

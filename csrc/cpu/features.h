// What this processor can run. Kernels are compiled for each instruction set and chosen here, at run time.
#pragma once

namespace xbridge {

enum class Isa { portable, avx2, avx512, amx };

// The best instruction set of this processor, or a lower one that the environment variable XBRIDGE_ISA names
// (portable, avx2, avx512, amx): a test can thus run every path that the machine has.
Isa best_isa();

const char* name_of(Isa isa);

}  // namespace xbridge

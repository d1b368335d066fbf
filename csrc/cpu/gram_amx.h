// The AMX kernels of gram.h on emulated tiles, on any processor: for tests.
#pragma once

#include "gram.h"

namespace xbridge {

void gram_sums_amx_emulated(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals);

}  // namespace xbridge

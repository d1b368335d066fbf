// The vector kernels of gram.h in the shape that AVX-512 has, on any processor: for tests.
#pragma once

#include "gram.h"

namespace xbridge {

void gram_sums_wide(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals);

}  // namespace xbridge

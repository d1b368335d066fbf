// Gram sums of several layers on the CPU: what every implementation is given and fills.
#pragma once

#include <vector>

#include "../common.h"

namespace xbridge {

enum class Kernel { linear, rbf, laplacian };

struct GramLayer {
  Tensor rows;         // (n, d) float16, bfloat16 or float32, rows contiguous
  const float* shift;  // (d,), subtracted
  float scale;         // multiplied afterwards
  float gamma;
};

struct GramTotals {
  double* products;  // (S, S) sum_{i != j} k^l_ij k^m_ij, both triangles
  double* row_sums;  // (S, n) sum_{j != i} k^l_ij
};

// Vectors of the widest kind that the processor has; float32 tiles.
void gram_sums_vector(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals);

// The same on one thread, for rows that are few: tiles as large as its caches take.
void gram_sums_of_batch(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals);

// AMX: bfloat16 tiles with float32 sums. Layers that bfloat16 holds exactly take one product, others three (x = hi + lo).
void gram_sums_amx(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals);

}  // namespace xbridge

// total += values: a float32 product, added to float64 sums without a float64 copy of it.

#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "../common.h"

namespace xbridge {
namespace {

void accumulate(Tensor total, Tensor values) {
  STD_TORCH_CHECK(total.dim() == 2 && values.dim() == 2 && total.size(0) == values.size(0) && total.size(1) == values.size(1),
                  "accumulate: total and values must have one shape (rows, cols)");
  STD_TORCH_CHECK(total.scalar_type() == ScalarType::Double && values.scalar_type() == ScalarType::Float,
                  "accumulate: total must be float64 and values float32");
  const int64_t rows = total.size(0), cols = total.size(1);
  STD_TORCH_CHECK(cols <= 1 || (total.stride(1) == 1 && values.stride(1) == 1), "accumulate: a row must be contiguous");
  const int64_t total_stride = total.stride(0), values_stride = values.stride(0);
  double* sums = static_cast<double*>(total.data_ptr());
  const float* terms = static_cast<const float*>(values.data_ptr());
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cols)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double* __restrict__ to = sums + i * total_stride;
      const float* __restrict__ from = terms + i * values_stride;
      for (int64_t j = 0; j < cols; ++j) to[j] += from[j];
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("accumulate", TORCH_BOX(&accumulate)); }

}  // namespace xbridge

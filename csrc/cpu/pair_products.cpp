// Products (or squared distances) of given pairs of rows, in float64 and in one fixed order of summation.

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "../common.h"
#include "features.h"
#include "targets.h"

namespace xbridge {
namespace {

namespace portable {
#include "pair_products.inl"
}  // namespace portable

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET("avx2")
namespace avx2 {
#include "pair_products.inl"
}  // namespace avx2
XBRIDGE_END_TARGET
#endif

template <typename T, bool distance>
auto chosen_fold() {
#if defined(__x86_64__)
  if (best_isa() >= Isa::avx2) return &avx2::fold<T, distance>;
#endif
  return &portable::fold<T, distance>;
}

template <typename T, bool distance>
void all_pairs(const Tensor& x, const Tensor& y, const Tensor& rows, const Tensor& columns, Tensor& out) {
  const auto fold = chosen_fold<T, distance>();
  const int64_t d = x.size(1), x_stride = x.stride(0), y_stride = y.stride(0), n = x.size(0), m = y.size(0);
  const T* x_data = static_cast<const T*>(x.data_ptr());
  const T* y_data = static_cast<const T*>(y.data_ptr());
  const auto* i = static_cast<const int64_t*>(rows.data_ptr());
  const auto* j = static_cast<const int64_t*>(columns.data_ptr());
  double* to = static_cast<double*>(out.data_ptr());
  for (int64_t p = 0; p < rows.size(0); ++p) {
    STD_TORCH_CHECK(i[p] >= 0 && i[p] < n && j[p] >= 0 && j[p] < m, "pair_products: an index is out of range");
  }
  torch::stable::parallel_for(0, rows.size(0), std::max<int64_t>(1, 65536 / d), [&](int64_t begin, int64_t end) {
    std::vector<double> terms(static_cast<size_t>(d + 1) / 2);
    for (int64_t p = begin; p < end; ++p) {
      to[p] = fold(x_data + i[p] * x_stride, y_data + j[p] * y_stride, d, terms.data());
    }
  });
}

void pair_products(Tensor x, Tensor y, Tensor rows, Tensor columns, bool distances, Tensor out) {
  STD_TORCH_CHECK(x.dim() == 2 && y.dim() == 2 && x.size(1) == y.size(1) && x.size(1) > 0,
                  "pair_products: x must be (n, d) and y (m, d), d > 0");
  STD_TORCH_CHECK(x.size(1) == 1 || (x.stride(1) == 1 && y.stride(1) == 1), "pair_products: a row must be contiguous");
  STD_TORCH_CHECK(rows.dim() == 1 && columns.dim() == 1 && out.dim() == 1 && rows.size(0) == columns.size(0) &&
                      rows.size(0) == out.size(0) && rows.is_contiguous() && columns.is_contiguous() && out.is_contiguous(),
                  "pair_products: rows, columns and out must be (p,), contiguous");
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Long && columns.scalar_type() == ScalarType::Long &&
                      out.scalar_type() == ScalarType::Double && x.scalar_type() == y.scalar_type(),
                  "pair_products: rows and columns must be int64, out float64, x and y of one type");
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return distances ? all_pairs<float, true>(x, y, rows, columns, out) : all_pairs<float, false>(x, y, rows, columns, out);
    case ScalarType::Double:
      return distances ? all_pairs<double, true>(x, y, rows, columns, out)
                       : all_pairs<double, false>(x, y, rows, columns, out);
    default: STD_TORCH_CHECK(false, "pair_products: x and y must be float32 or float64");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("pair_products", TORCH_BOX(&pair_products)); }

}  // namespace xbridge

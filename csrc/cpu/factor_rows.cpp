// Rows weighted and shifted in float64 and rounded to float32, with their lengths, in one pass and without a copy in
// float64.

#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "../common.h"
#include "features.h"
#include "targets.h"

namespace xbridge {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

namespace portable {
#include "factor_rows.inl"
}  // namespace portable

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET("avx2")
namespace avx2 {
#include "factor_rows.inl"
}  // namespace avx2
XBRIDGE_END_TARGET
#endif

template <typename T>
auto chosen_factor_row() {
#if defined(__x86_64__)
  if (best_isa() >= Isa::avx2) return &avx2::factor_row<T>;
#endif
  return &portable::factor_row<T>;
}

template <typename T>
void all_rows(const Tensor& x, const Tensor& weight, const Tensor& shift, const Tensor& other, Tensor& factors,
              Tensor& squares, Tensor& products) {
  const auto factor_row = chosen_factor_row<T>();
  const int64_t d = x.size(1), x_stride = x.stride(0), factors_stride = factors.stride(0);
  const T* rows = static_cast<const T*>(x.data_ptr());
  const auto* weights = static_cast<const double*>(weight.data_ptr());
  const auto* shifts = static_cast<const double*>(shift.data_ptr());
  const auto* others = static_cast<const double*>(other.data_ptr());
  float* to = static_cast<float*>(factors.data_ptr());
  double* lengths = static_cast<double*>(squares.data_ptr());
  double* terms = static_cast<double*>(products.data_ptr());
  torch::stable::parallel_for(0, x.size(0), std::max<int64_t>(1, 65536 / d), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      factor_row(rows + i * x_stride, weights[i], shifts, others, d, to + i * factors_stride, lengths + i, terms + i);
    }
  });
}

bool is_vector(const Tensor& x, int64_t size) {
  return x.dim() == 1 && x.size(0) == size && x.scalar_type() == ScalarType::Double && x.is_contiguous();
}

void factor_rows(Tensor x, Tensor weight, Tensor shift, Tensor other, Tensor factors, Tensor squares, Tensor products) {
  STD_TORCH_CHECK(x.dim() == 2 && factors.dim() == 2 && x.size(0) == factors.size(0) && x.size(1) == factors.size(1) &&
                      x.size(1) > 0 && factors.scalar_type() == ScalarType::Float,
                  "factor_rows: x and factors must both be (n, d), factors float32");
  STD_TORCH_CHECK(x.size(1) == 1 || (x.stride(1) == 1 && factors.stride(1) == 1), "factor_rows: a row must be contiguous");
  STD_TORCH_CHECK(is_vector(weight, x.size(0)) && is_vector(squares, x.size(0)) && is_vector(products, x.size(0)),
                  "factor_rows: weight, squares and products must be (n,) float64, contiguous");
  STD_TORCH_CHECK(is_vector(shift, x.size(1)) && is_vector(other, x.size(1)),
                  "factor_rows: shift and other must be (d,) float64, contiguous");
  switch (x.scalar_type()) {
    case ScalarType::Float: return all_rows<float>(x, weight, shift, other, factors, squares, products);
    case ScalarType::Double: return all_rows<double>(x, weight, shift, other, factors, squares, products);
    case ScalarType::Half: return all_rows<Half>(x, weight, shift, other, factors, squares, products);
    case ScalarType::BFloat16: return all_rows<BFloat16>(x, weight, shift, other, factors, squares, products);
    default: STD_TORCH_CHECK(false, "factor_rows: x must be float16, bfloat16, float32 or float64");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("factor_rows", TORCH_BOX(&factor_rows)); }

}  // namespace xbridge

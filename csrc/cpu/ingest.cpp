// One pass over rows: shift, scale, cast to float32, squared lengths in float64, and the first row that is not finite.

#include <atomic>
#include <cmath>
#include <optional>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "../common.h"

namespace xbridge {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// One row; returns its squared length, which is NaN or infinite exactly when an entry is (float64 cannot overflow here).
template <typename T>
double ingest_row(const T* x, const Wide<T>* shift, Wide<T> scale, float* out, int64_t d) {
  constexpr int lanes = 8;  // independent sums: a vector's worth, added in a fixed order at the end
  double sums[lanes] = {};
  int64_t j = 0;
  for (; j + lanes <= d; j += lanes) {
    for (int lane = 0; lane < lanes; ++lane) {
      const float value = static_cast<float>((static_cast<Wide<T>>(x[j + lane]) - shift[j + lane]) * scale);
      out[j + lane] = value;
      sums[lane] += static_cast<double>(value) * value;
    }
  }
  double total = 0;
  for (; j < d; ++j) {
    const float value = static_cast<float>((static_cast<Wide<T>>(x[j]) - shift[j]) * scale);
    out[j] = value;
    total += static_cast<double>(value) * value;
  }
  for (double sum : sums) total += sum;
  return total;
}

template <typename T>
int64_t ingest_rows(const Tensor& x, const Tensor& shift, double scale, Tensor& rows, Tensor& squared_lengths) {
  const int64_t n = x.size(0), d = x.size(1), x_stride = x.stride(0), out_stride = rows.stride(0);
  const T* in = static_cast<const T*>(x.data_ptr());
  const auto* shift_data = static_cast<const Wide<T>*>(shift.data_ptr());
  float* out = static_cast<float*>(rows.data_ptr());
  double* lengths = static_cast<double*>(squared_lengths.data_ptr());
  const int64_t lengths_stride = squared_lengths.stride(0);
  std::atomic<int64_t> first_bad{n};
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, d)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double length = ingest_row<T>(in + i * x_stride, shift_data, static_cast<Wide<T>>(scale), out + i * out_stride, d);
      lengths[i * lengths_stride] = length;
      if (!std::isfinite(length)) {
        int64_t seen = first_bad.load();
        while (i < seen && !first_bad.compare_exchange_weak(seen, i)) {
        }
      }
    }
  });
  return first_bad.load() == n ? -1 : first_bad.load();
}

int64_t ingest(Tensor x, Tensor shift, double scale, Tensor rows, Tensor squared_lengths) {
  STD_TORCH_CHECK(x.dim() == 2 && rows.dim() == 2 && x.size(0) == rows.size(0) && x.size(1) == rows.size(1),
                  "ingest: x and rows must both be (n, d)");
  STD_TORCH_CHECK(x.size(1) <= 1 || (x.stride(1) == 1 && rows.stride(1) == 1), "ingest: a row must be contiguous");
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Float && squared_lengths.scalar_type() == ScalarType::Double,
                  "ingest: rows must be float32 and squared_lengths float64");
  STD_TORCH_CHECK(squared_lengths.dim() == 1 && squared_lengths.size(0) == x.size(0), "ingest: squared_lengths must be (n,)");
  STD_TORCH_CHECK(shift.dim() == 1 && shift.size(0) == x.size(1) && shift.is_contiguous(), "ingest: shift must be (d,)");
  const bool wide = x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(shift.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  "ingest: shift must be float32, or float64 for float64 rows");
  switch (x.scalar_type()) {
    case ScalarType::Float: return ingest_rows<float>(x, shift, scale, rows, squared_lengths);
    case ScalarType::Double: return ingest_rows<double>(x, shift, scale, rows, squared_lengths);
    case ScalarType::Half: return ingest_rows<Half>(x, shift, scale, rows, squared_lengths);
    case ScalarType::BFloat16: return ingest_rows<BFloat16>(x, shift, scale, rows, squared_lengths);
    default: STD_TORCH_CHECK(false, "ingest: x must be float16, bfloat16, float32 or float64"); return -1;
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("ingest", TORCH_BOX(&ingest)); }

}  // namespace xbridge

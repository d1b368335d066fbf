#include "gram_amx_layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

namespace xbridge {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t pilot_rows = 64, pair_rows = 16;
constexpr double largest_mean =
    32;  // |mean|^2 over the variance, of what is left unshifted in rows that bfloat16 holds

double entry(const Source& source, int64_t row, int64_t k) {
  const int64_t at = row * source.stride + k;
  switch (source.type) {
    case ScalarType::Half:
      return static_cast<const Half*>(source.data)[at];
    case ScalarType::BFloat16:
      return static_cast<const BFloat16*>(source.data)[at];
    default:
      return static_cast<const float*>(source.data)[at];
  }
}

// Rows spread evenly over all.
std::vector<int64_t> some_rows(int64_t n, int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(std::min(n, count)));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i) * n / static_cast<int64_t>(rows.size());
  return rows;
}

bool bfloat16_holds(const Source& source, const std::vector<int64_t>& rows) {
  if (source.type == ScalarType::BFloat16) return true;
  for (int64_t row : rows) {
    for (int64_t k = 0; k < source.dim; ++k) {
      const double value = entry(source, row, k);
      if (static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(value)))) != value) return false;
    }
  }
  return true;
}

std::vector<double> mean_squares(const Source& source, const std::vector<int64_t>& rows, const float* about) {
  std::vector<double> squares(static_cast<size_t>(source.dim));
  for (int64_t row : rows) {
    for (int64_t k = 0; k < source.dim; ++k) squares[k] += std::pow(entry(source, row, k) - about[k], 2);
  }
  for (double& square : squares) square /= static_cast<double>(rows.size());
  return squares;
}

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// Of rows that bfloat16 holds, the entries with the largest means are shifted, until what is left of the mean is no
// longer than a few standard deviations: rounding errors grow with |z|, and a shift that is not exact costs three
// products.
std::vector<float> chosen_origin(const Source& source, const float* shift, const std::vector<int64_t>& rows) {
  if (!bfloat16_holds(source, rows)) return std::vector<float>(shift, shift + source.dim);
  std::vector<int64_t> order(static_cast<size_t>(source.dim));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t j, int64_t k) { return std::fabs(shift[j]) > std::fabs(shift[k]); });
  double left = 0;
  for (int64_t k : order) left += static_cast<double>(shift[k]) * shift[k];
  const double allowed = largest_mean * sum(mean_squares(source, rows, shift));
  std::vector<float> origin(static_cast<size_t>(source.dim), 0.0f);
  for (int64_t k : order) {
    if (!(left > allowed) || shift[k] == 0) break;
    left -= static_cast<double>(shift[k]) * shift[k];
    origin[k] = static_cast<float>(BFloat16(shift[k]));
  }
  return origin;
}

// A power of two that makes rows about one long, so that no square leaves float32's range and nothing of size is
// subnormal.
float chosen_unit(const Source& source, int64_t n, const std::vector<int64_t>& rows, const float* origin) {
  double length = sum(mean_squares(source, rows, origin));
  if (length == 0) length = sum(mean_squares(source, some_rows(n, n), origin));
  if (!(length > 0) || !std::isfinite(length)) return 1;
  return static_cast<float>(std::exp2(std::clamp(-std::round(std::log2(length) / 2), -126.0, 126.0)));
}

// The place of an entry in the order of amx's Pair: float32 rows as they are, 16-bit rows by even and odd entries.
int64_t packed_position(ScalarType type, int64_t k) {
  if (type == ScalarType::Float) return k;
  return k / block_entries * block_entries + k % 2 * tile_rows + k % block_entries / 2;
}

std::vector<float> in_packed_order(const Source& source, const std::vector<float>& values) {
  std::vector<float> packed(static_cast<size_t>(source.num_blocks * block_entries), 0.0f);
  for (int64_t k = 0; k < source.dim; ++k) packed[packed_position(source.type, k)] = values[k];
  return packed;
}

// One flag per block of entries: it needs low parts.
std::vector<uint8_t> inexact_blocks(const Source& source, int64_t n, const GramKernels& kernels) {
  const int64_t rows_per_task = 256, tasks = ceil_div(n, rows_per_task);
  std::vector<uint8_t> flags(static_cast<size_t>(tasks * source.num_blocks), 0);
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * rows_per_task;
      kernels.find_inexact(source, first, std::min(rows_per_task, n - first), flags.data() + task * source.num_blocks);
    }
  });
  for (int64_t at = source.num_blocks; at < static_cast<int64_t>(flags.size()); ++at)
    flags[at % source.num_blocks] |= flags[at];
  flags.resize(static_cast<size_t>(source.num_blocks));
  return flags;
}

void plan_products(AmxLayer& layer, const std::vector<uint8_t>& inexact) {
  Source& source = layer.source;
  layer.low_blocks.assign(static_cast<size_t>(source.num_blocks), -1);
  int32_t next = static_cast<int32_t>(source.num_blocks);
  for (int32_t block = 0; block < source.num_blocks; ++block) {
    if (!inexact[block]) continue;
    const int32_t low = layer.low_blocks[block] = next++;
    if (layer.low_multiplied) layer.steps.push_back({low, low});
    layer.steps.push_back({low, block});
    layer.steps.push_back({block, low});
  }
  for (int32_t block = 0; block < source.num_blocks; ++block) layer.steps.push_back({block, block});
  source.low_blocks = layer.low_blocks.data();
  source.strip_blocks = next;
}

// The mean of exp(-gamma |x - y|^2) or exp(-gamma |x - y|) over pairs of a few rows.
double mean_kernel(const GramLayer& layer, const Source& source, const std::vector<int64_t>& rows, bool root) {
  double total = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      double squared = 0;
      for (int64_t k = 0; k < source.dim; ++k)
        squared += std::pow(entry(source, rows[i], k) - entry(source, rows[j], k), 2);
      squared *= static_cast<double>(layer.scale) * layer.scale;
      total += std::exp(-layer.gamma * (root ? std::sqrt(squared) : squared));
    }
  }
  const double pairs = static_cast<double>(rows.size()) * (static_cast<double>(rows.size()) - 1) / 2;
  return pairs > 0 ? total / pairs : 0;
}

// v is k over a constant near its mean, minus one: float32 then holds what HSIC sees, the deviations. Where k is mostly
// far below its largest values, v = k holds them better.
void plan_curve(AmxLayer& to, const GramLayer& layer, Kernel kernel, int64_t n) {
  constexpr double smallest_mean = 0.05, log2_e = 1.4426950408889634;
  const double unscale = static_cast<double>(layer.scale) / to.source.unit;
  if (kernel == Kernel::linear) {
    to.curve = {kernel, 0, 1, 0};
    to.factor = unscale * unscale;
    to.constant = 0;
    return;
  }
  const bool root = kernel == Kernel::laplacian;
  const double mean = mean_kernel(layer, to.source, some_rows(n, pair_rows), root);
  const bool about_mean = mean > smallest_mean;
  const float offset = about_mean ? static_cast<float>(-std::log2(mean)) : 0.0f;
  const double slope = layer.gamma * log2_e * (root ? std::sqrt(2.0) * unscale : 2 * unscale * unscale);
  to.curve = {kernel, offset, static_cast<float>(slope), about_mean ? 1.0f : 0.0f};
  to.factor = std::exp2(-static_cast<double>(offset));
  to.constant = about_mean ? to.factor : 0;
}

}  // namespace

AmxLayer planned(const GramLayer& layer, Kernel kernel, const GramKernels& kernels) {
  const Tensor& x = layer.rows;
  const int64_t n = x.size(0), dim = x.size(1);
  AmxLayer to{};
  Source& source = to.source;
  source = {x.data_ptr(), x.scalar_type(), x.stride(0), dim, ceil_div(dim, block_entries), nullptr, 1, nullptr, 0};
  const std::vector<int64_t> pilot = some_rows(n, pilot_rows);
  const std::vector<float> origin = chosen_origin(source, layer.shift, pilot);
  source.unit = chosen_unit(source, n, pilot, origin.data());
  to.origin = in_packed_order(source, origin);
  source.origin = to.origin.data();
  // Laplacian: near zero a distance is the root of what is left of squared lengths, so equal rows must leave nothing
  to.low_multiplied = kernel == Kernel::laplacian;
  plan_products(to, inexact_blocks(source, n, kernels));
  std::vector<float> offset(static_cast<size_t>(dim));
  for (int64_t k = 0; k < dim; ++k) {
    offset[k] = static_cast<float>((static_cast<double>(origin[k]) - layer.shift[k]) * source.unit);
    to.offset_length += static_cast<double>(offset[k]) * offset[k];
  }
  if (kernel == Kernel::linear && to.offset_length > 0) to.offset = in_packed_order(source, offset);
  plan_curve(to, layer, kernel, n);
  return to;
}

void measure(AmxLayer& layer, int index, int64_t n, int64_t padded, const GramKernels& kernels) {
  const bool linear = layer.curve.shape == Kernel::linear;
  const float* offset = layer.offset.empty() ? nullptr : layer.offset.data();
  const double offset_length = layer.offset.empty() ? 0 : layer.offset_length;
  const int64_t strips = ceil_div(n, strip_rows), strip_words = layer.source.strip_blocks * block_words;
  layer.halves = aligned<float>(padded);
  std::fill(layer.halves.get(), layer.halves.get() + padded, 0.0f);
  std::vector<double> lengths(static_cast<size_t>(strips * strip_rows)), lifts(lengths.size());
  torch::stable::parallel_for(0, strips, 8, [&](int64_t begin, int64_t end) {
    const Aligned<uint32_t> left = aligned<uint32_t>(strip_words), right = aligned<uint32_t>(strip_words);
    kernels.configure();
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * strip_rows, count = std::min(strip_rows, n - first);
      kernels.pack(layer.source, first, count, false, left.get());
      kernels.pack(layer.source, first, count, true, right.get());
      kernels.measure(layer.source, layer.steps.data(), static_cast<int64_t>(layer.steps.size()), left.get(),
                      right.get(), layer.low_multiplied, offset, lengths.data() + first, lifts.data() + first);
    }
    kernels.release();
  });
  // sums of products of two inner products must stay below 3.4e38
  const double longest = linear ? 1e17 : 1e30;
  double total = 0, largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(lengths[i] <= longest, "gram_sums: layer ", index, ", row ", i,
                    " is not finite, or too far from the others for float32");
    layer.halves[i] = static_cast<float>(linear ? lifts[i] + offset_length / 2 : lengths[i] / 2);
    const double length = std::max(0.0, linear ? lengths[i] + 2 * lifts[i] + offset_length : lengths[i]);
    total += length;
    largest = std::max(largest, length);
  }
  const double rows = static_cast<double>(n);
  const double bound = linear ? std::sqrt(largest * total * rows) * 1.001 : std::exp2(layer.curve.offset) * rows;
  layer.row_sum_unit = bound > 0 ? std::exp2(std::ceil(std::log2(bound)) - 61) : 1;
}

}  // namespace xbridge

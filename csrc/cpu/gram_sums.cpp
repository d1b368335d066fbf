// The operator gram_sums: arguments checked, then whatever this processor does fastest.

#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "features.h"
#include "gram.h"
#include "gram_vector.h"

namespace xbridge {
namespace {

using Implementation = void (*)(const std::vector<GramLayer>&, Kernel, const GramTotals&);

Kernel kernel_named(const std::string& name) {
  if (name == "linear") return Kernel::linear;
  if (name == "rbf") return Kernel::rbf;
  STD_TORCH_CHECK(name == "laplacian", "gram_sums: kernel must be linear, rbf or laplacian, not ", name);
  return Kernel::laplacian;
}

GramLayer layer_of(size_t index, const Tensor& x, const Tensor& shift, double scale, Kernel kernel, double gamma, int64_t n) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == n && x.size(1) > 0, "gram_sums: layer ", index, " must be (", n, ", d), d > 0");
  STD_TORCH_CHECK(x.size(1) == 1 || x.stride(1) == 1, "gram_sums: a row of layer ", index, " must be contiguous");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Half ||
                      x.scalar_type() == ScalarType::BFloat16,
                  "gram_sums: layer ", index, " must be float16, bfloat16 or float32");
  STD_TORCH_CHECK(shift.dim() == 1 && shift.size(0) == x.size(1) && shift.is_contiguous() &&
                      shift.scalar_type() == ScalarType::Float,
                  "gram_sums: the shift of layer ", index, " must be (d,) float32");
  STD_TORCH_CHECK(std::isfinite(scale), "gram_sums: the scale of layer ", index, " must be finite, not ", scale);
  STD_TORCH_CHECK(kernel == Kernel::linear || (gamma > 0 && std::isfinite(gamma)), "gram_sums: gamma of layer ", index,
                  " must be positive, not ", gamma);
  return {x, static_cast<const float*>(shift.data_ptr()), static_cast<float>(scale), static_cast<float>(gamma)};
}

void check_counts(const std::vector<Tensor>& layers, const std::vector<Tensor>& shifts, const std::vector<double>& scales,
                  const std::vector<double>& gammas) {
  STD_TORCH_CHECK(!layers.empty() && layers[0].dim() == 2 && layers[0].size(0) > 0, "gram_sums: needs at least one layer, (n, d)");
  STD_TORCH_CHECK(shifts.size() == layers.size() && scales.size() == layers.size() && gammas.size() == layers.size(),
                  "gram_sums: needs one shift, scale and gamma per layer");
}

std::tuple<Tensor, Tensor> run(Implementation implementation, const std::vector<Tensor>& layers, const std::vector<Tensor>& shifts,
                               const std::vector<double>& scales, const std::string& name, const std::vector<double>& gammas) {
  check_counts(layers, shifts, scales, gammas);
  const Kernel kernel = kernel_named(name);
  const int64_t num_layers = static_cast<int64_t>(layers.size()), n = layers[0].size(0);
  std::vector<GramLayer> checked;
  for (size_t l = 0; l < layers.size(); ++l) {
    checked.push_back(layer_of(l, layers[l], shifts[l], scales[l], kernel, gammas[l], n));
  }
  Tensor products = torch::stable::new_zeros(layers[0], {num_layers, num_layers}, ScalarType::Double);
  Tensor row_sums = torch::stable::new_zeros(layers[0], {num_layers, n}, ScalarType::Double);
  implementation(checked, kernel, {static_cast<double*>(products.data_ptr()), static_cast<double*>(row_sums.data_ptr())});
  return {products, row_sums};
}

Implementation fastest() { return best_isa() == Isa::amx ? gram_sums_amx : gram_sums_vector; }

Implementation fastest_of_batch() { return best_isa() == Isa::amx ? gram_sums_amx : gram_sums_of_batch; }

// The layers' rows of one batch, and its row of `shifts`.
std::vector<GramLayer> batch_of(const std::vector<Tensor>& layers, const std::vector<Tensor>& shifts,
                                const std::vector<double>& scales, Kernel kernel, const std::vector<double>& gammas,
                                int64_t batch, int64_t size) {
  std::vector<GramLayer> found;
  for (size_t l = 0; l < layers.size(); ++l) {
    Tensor rows = layers[l], shift = shifts[l];
    rows = torch::stable::narrow(rows, 0, batch * size, size);
    found.push_back(layer_of(l, rows, torch::stable::select(shift, 0, batch), scales[l], kernel, gammas[l], size));
  }
  return found;
}

// Every batch by itself, on one thread: threads meet once, and a batch's tiles stay in one core's caches.
std::tuple<Tensor, Tensor> batch_gram_sums(std::vector<Tensor> layers, std::vector<Tensor> shifts, std::vector<double> scales,
                                           std::string name, std::vector<double> gammas, int64_t size) {
  check_counts(layers, shifts, scales, gammas);
  const int64_t n = layers[0].size(0), num_layers = static_cast<int64_t>(layers.size()), batches = n / std::max<int64_t>(1, size);
  STD_TORCH_CHECK(size > 0 && batches * size == n, "batch_gram_sums: ", n, " rows are not batches of ", size);
  for (size_t l = 0; l < layers.size(); ++l) {
    STD_TORCH_CHECK(layers[l].dim() == 2 && layers[l].size(0) == n && shifts[l].dim() == 2 && shifts[l].size(0) == batches,
                    "batch_gram_sums: layer ", l, " must be (", n, ", d) and its shifts (", batches, ", d)");
  }
  const Kernel kernel = kernel_named(name);
  const Implementation implementation = fastest_of_batch();
  Tensor products = torch::stable::new_zeros(layers[0], {batches, num_layers, num_layers}, ScalarType::Double);
  Tensor row_sums = torch::stable::new_zeros(layers[0], {batches, num_layers, size}, ScalarType::Double);
  double *to_products = static_cast<double*>(products.data_ptr()), *to_row_sums = static_cast<double*>(row_sums.data_ptr());
  std::vector<std::exception_ptr> failures(static_cast<size_t>(batches));
  torch::stable::parallel_for(0, batches, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      try {
        implementation(batch_of(layers, shifts, scales, kernel, gammas, b, size), kernel,
                  {to_products + b * num_layers * num_layers, to_row_sums + b * num_layers * size});
      } catch (...) {
        failures[b] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return {products, row_sums};
}

std::tuple<Tensor, Tensor> gram_sums(std::vector<Tensor> layers, std::vector<Tensor> shifts, std::vector<double> scales,
                                     std::string kernel, std::vector<double> gammas) {
  return run(fastest(), layers, shifts, scales, kernel, gammas);
}

std::tuple<Tensor, Tensor> wide(std::vector<Tensor> layers, std::vector<Tensor> shifts, std::vector<double> scales,
                                std::string kernel, std::vector<double> gammas) {
  return run(gram_sums_wide, layers, shifts, scales, kernel, gammas);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(xbridge, m) {
  m.def("gram_sums_wide(Tensor[] layers, Tensor[] shifts, float[] scales, str kernel, float[] gammas) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) {
  m.impl("gram_sums", TORCH_BOX(&gram_sums));
  m.impl("batch_gram_sums", TORCH_BOX(&batch_gram_sums));
  m.impl("gram_sums_wide", TORCH_BOX(&wide));
}

}  // namespace xbridge

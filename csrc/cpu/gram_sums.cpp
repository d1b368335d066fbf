// The operator gram_sums: arguments checked, then whatever this processor does fastest.

#include <cmath>
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

std::tuple<Tensor, Tensor> run(Implementation implementation, const std::vector<Tensor>& layers, const std::vector<Tensor>& shifts,
                               const std::vector<double>& scales, const std::string& name, const std::vector<double>& gammas) {
  STD_TORCH_CHECK(!layers.empty() && layers[0].dim() == 2 && layers[0].size(0) > 0, "gram_sums: needs at least one layer, (n, d)");
  STD_TORCH_CHECK(shifts.size() == layers.size() && scales.size() == layers.size() && gammas.size() == layers.size(),
                  "gram_sums: needs one shift, scale and gamma per layer");
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
  m.impl("gram_sums_wide", TORCH_BOX(&wide));
}

}  // namespace xbridge

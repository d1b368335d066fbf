// The schema of every native operator. Definitions in plain PyTorch are in xbridge/ops; kernels in cpu/ and cuda/.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(xbridge, m) {
  m.def("ingest(Tensor x, Tensor shift, float scale, Tensor(a!) rows, Tensor(b!) squared_lengths) -> int");
  m.def("accumulate(Tensor(a!) total, Tensor values) -> ()");
  m.def("gram_sums(Tensor[] layers, Tensor[] shifts, float[] scales, str kernel, float[] gammas) -> (Tensor, Tensor)");
  m.def("permuted_products(Tensor k, Tensor l, Tensor orders) -> Tensor");
  m.def("cpu_features() -> str");
}

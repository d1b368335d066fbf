// The schema of every native operator. Definitions in plain PyTorch are in xbridge/ops; kernels in cpu/ and cuda/.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(xbridge, m) {
  m.def("ingest(Tensor x, Tensor shift, float scale, Tensor(a!) rows, Tensor(b!) squared_lengths) -> int");
  m.def("accumulate(Tensor(a!) total, Tensor values) -> ()");
  m.def("gram_sums(Tensor[] layers, Tensor[] shifts, float[] scales, str kernel, float[] gammas) -> (Tensor, Tensor)");
  m.def(
      "batch_gram_sums(Tensor[] layers, Tensor[] shifts, float[] scales, str kernel, float[] gammas, int size) -> "
      "(Tensor, Tensor)");
  m.def("permuted_products(Tensor k, Tensor l, Tensor orders) -> Tensor");
  m.def("pair_products(Tensor x, Tensor y, Tensor rows, Tensor columns, bool distances, Tensor(a!) out) -> ()");
  m.def(
      "factor_rows(Tensor x, Tensor weight, Tensor shift, Tensor other, Tensor(a!) factors, Tensor(b!) squares, "
      "Tensor(c!) products) -> ()");
  m.def(
      "scan_products(Tensor left, Tensor right, Tensor[] terms, Tensor(a!)[] forward, Tensor(b!)[] backward, int[] k, "
      "int[] first, bool exclude_self) -> ()");
  m.def("rescore_tiles(Tensor queries, Tensor keys, Tensor tiles, Tensor pairs, int tile_width, Tensor(a!) best) -> ()");
  m.def(
      "rescore_rows(Tensor queries, Tensor keys, Tensor best, Tensor(a!) scores, Tensor(b!) indices, Tensor(c!) floors)"
      " -> ()");
  m.def("cpu_features() -> str");
}

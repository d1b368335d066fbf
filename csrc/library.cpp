// The schema of every native operator. Definitions in plain PyTorch are in xbridge/ops; kernels in cpu/ and cuda/.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(xbridge, m) {
  m.def("ingest(Tensor x, Tensor shift, float scale, Tensor(a!) rows, Tensor(b!) squared_lengths) -> int");
  m.def("accumulate(Tensor(a!) total, Tensor values) -> ()");
  m.def("rescore_tiles(Tensor queries, Tensor keys, Tensor tiles, Tensor pairs, int tile_width, Tensor(a!) best) -> ()");
  m.def(
      "rescore_rows(Tensor queries, Tensor keys, Tensor best, Tensor(a!) scores, Tensor(b!) indices, Tensor(c!) floors)"
      " -> ()");
  m.def("cpu_features() -> str");
}

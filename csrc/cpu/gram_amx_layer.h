// A layer as AMX multiplies it: how its rows become bfloat16, and what is summed of its kernel.
//
// A row x becomes z = (x - origin) unit, unit a power of two. Rows that bfloat16 holds exactly stay exact: their origin
// is a bfloat16 near the mean where the mean is large (x - origin is then exact, by Sterbenz, for x within a factor 2
// of it), and zero elsewhere, where little cancels. All other rows, and the blocks of entries where the difference is
// not exact, are z = high + low in bfloat16, which keeps 16 to 17 bits; products are high high + high low + low high.
#pragma once

#include <vector>

#include "amx.h"
#include "gram_tile.h"

namespace xbridge {

struct Float16Bits {
  uint16_t bits;
};

struct Bfloat16Bits {
  uint16_t bits;
};

// Rows, and how they are packed. `origin` is ordered as the entries of a block are packed, padded with zeros.
struct Source {
  const void* data;
  ScalarType type;
  int64_t stride, dim, num_blocks;
  const float* origin;
  float unit;
  const int32_t* low_blocks;  // (num_blocks,) where in a strip the low parts of a block are, or -1
  int64_t strip_blocks;
};

struct GramKernels {
  void (*configure)();
  void (*release)();
  void (*find_inexact)(const Source&, int64_t first, int64_t count, uint8_t* flags);
  void (*pack)(const Source&, int64_t first, int64_t count, bool transposed, uint32_t* out);
  void (*measure)(const Source&, const Step*, int64_t num_steps, const uint32_t* left, const uint32_t* right,
                  bool low_multiplied, const float* offset, double* lengths, double* lifts);
  void (*inner_products)(const Source&, const Step*, int64_t num_steps, const uint32_t* left, const uint32_t* right,
                         const Tile&, float* c);
  void (*finish)(const Curve&, const Tile&, const float* half_rows, const float* half_cols, float* c, double* row_sums,
                 double* col_sums);
  void (*layer_products)(const float* c, int64_t layer_stride, int64_t count, int num_layers, double* totals);
};

struct AmxLayer {
  Source source;
  std::vector<float> origin;
  std::vector<int32_t> low_blocks;
  std::vector<Step> steps;    // which blocks of two strips are multiplied
  bool low_multiplied;        // low low as well
  std::vector<float> offset;  // (origin - shift) unit, in the order of origin; empty where nothing is to be undone
  double offset_length;       // its squared length
  Curve curve;
  double factor, constant;  // k = factor v + constant
  double row_sum_unit;      // row sums are counted in these, a power of two
  Aligned<float> halves;    // (n, then zeros up to whole tiles) see Curve
};

// All but what depends on squared lengths.
AmxLayer planned(const GramLayer& layer, Kernel kernel, const GramKernels& kernels);

// Squared lengths, hence halves and row_sum_unit. An error names the layer, by its index, and the row that is not
// finite.
void measure(AmxLayer& layer, int index, int64_t n, int64_t padded, const GramKernels& kernels);

}  // namespace xbridge

// Rows of a matrix, and how many of their entries a packed panel holds. Products of panels are in panels.inl.
#pragma once

#include <cstdint>

#include "../common.h"

namespace xbridge {

constexpr int64_t panel_depth = 256;     // features in a packed panel: also the longest float32 sum of products
constexpr int64_t buffer_stride = 272;   // above panel_depth, and not a power of two: rows fall in different cache sets

struct Float16Bits {
  uint16_t bits;
};

struct Bfloat16Bits {
  uint16_t bits;
};

struct Rows {
  const void* data;
  ScalarType type;
  int64_t stride, dim;
  const float* shift;
  float scale;
};

}  // namespace xbridge

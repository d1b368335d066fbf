// AMX in the few words that the kernels need. A tile is 16 rows of 64 bytes: 16 pairs of bfloat16, or 16 float32.
//
//     c[i][j] += sum_k a[i][2k] b[k][2j] + a[i][2k + 1] b[k][2j + 1]
//
// The left operand holds rows of entries as they are; the right one, read as 32-bit pairs, is transposed. Operands are
// packed in blocks of two tiles, 32 rows by 32 entries; a strip is all blocks of 32 rows.
#pragma once

#include <cstdint>

#include "../common.h"
#include "aligned.h"

namespace xbridge {

constexpr int64_t tile_rows = 16;
constexpr int64_t tile_words = 256;  // 32-bit words
constexpr int64_t strip_rows = 2 * tile_rows;
constexpr int64_t block_entries = 2 * tile_rows;
constexpr int64_t block_words = 2 * tile_words;

// One block of a left strip times one block of a right strip.
struct Step {
  int32_t left, right;
};

}  // namespace xbridge

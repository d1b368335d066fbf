// AMX in the few words that the kernels need. A tile is 16 rows of 64 bytes: 16 pairs of bfloat16, or 16 float32.
//
//     c[i][j] += sum_k a[i][2k] b[k][2j] + a[i][2k + 1] b[k][2j + 1]
//
// The left operand holds rows of entries as they are; the right one, read as 32-bit pairs, is transposed. Operands are
// packed in blocks of two tiles, 32 rows by 32 entries; a strip is all blocks of 32 rows.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "../common.h"

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

struct Deallocate {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
};

template <typename T>
using Aligned = std::unique_ptr<T[], Deallocate>;

template <typename T>
Aligned<T> aligned(int64_t count) {
  return Aligned<T>(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), std::align_val_t(64))));
}

}  // namespace xbridge

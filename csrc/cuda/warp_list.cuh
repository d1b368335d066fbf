// The best scores of a warp, sorted, one 64-bit word each: the score above, its index below, so that one comparison
// ranks by score and then by lowest index.
#pragma once

#include "common.cuh"

namespace xbridge {

using Ranked = unsigned long long;  // 0: nothing

__device__ __forceinline__ Ranked rank(float score, int64_t index) {
  const unsigned bits = __float_as_uint(score + 0.0f);  // + 0: minus zero ties with zero
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return Ranked{ordered} << 32 | (0xffffffffu - static_cast<unsigned>(index));
}

__device__ __forceinline__ float score_of(Ranked word) {
  const auto ordered = static_cast<unsigned>(word >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ int64_t index_of(Ranked word) { return 0xffffffffu - static_cast<unsigned>(word); }

// The `length` best words, in registers: the p-th is word[p / 32] of lane p % 32, largest first. All lanes call together.
// 32 (Depth - 1) < length <= 32 Depth, so that the last one is at a place known to the compiler: registers have no index.
template <int Depth>
class WarpList {
 public:
  __device__ __forceinline__ WarpList(int lane, int length) : lane_(lane), length_(length) {}

  __device__ __forceinline__ void read(const Ranked* from) {
#pragma unroll
    for (int q = 0; q < Depth; ++q) {
      const int p = q * warp_size + lane_;
      if (p < length_) word_[q] = from[p];
    }
  }

  __device__ __forceinline__ void write(Ranked* to) const {
#pragma unroll
    for (int q = 0; q < Depth; ++q) {
      const int p = q * warp_size + lane_;
      if (p < length_) to[p] = word_[q];
    }
  }

  // Takes in one candidate of every lane. No candidate may be in the list already.
  __device__ __forceinline__ void offer(Ranked candidate) {
    for (unsigned waiting = better(candidate); waiting != 0; waiting &= better(candidate)) {
      const int source = __ffs(static_cast<int>(waiting)) - 1;
      insert(__shfl_sync(all_lanes, candidate, source));
      waiting &= ~(1u << source);
    }
  }

  // Puts one word, the same in every lane, in its place; the last one falls off.
  __device__ __forceinline__ void insert(Ranked added) {
#pragma unroll
    for (int q = Depth - 1; q >= 0; --q) {
      Ranked before = __shfl_up_sync(all_lanes, word_[q], 1);
      if (q > 0) {
        const Ranked carried = __shfl_sync(all_lanes, word_[q > 0 ? q - 1 : 0], warp_size - 1);
        if (lane_ == 0) before = carried;
      }
      const bool first = q == 0 && lane_ == 0;
      if (word_[q] < added) word_[q] = first || before > added ? added : before;
    }
  }

  __device__ __forceinline__ Ranked last() const {
    return __shfl_sync(all_lanes, word_[Depth - 1], (length_ - 1) % warp_size);
  }

  // visit(word) for each of the list's words in order, the same in every lane.
  template <typename Visit>
  __device__ __forceinline__ void for_each(Visit visit) const {
#pragma unroll
    for (int q = 0; q < Depth; ++q) {
#pragma unroll 1
      for (int source = 0; source < warp_size && q * warp_size + source < length_; ++source) {
        visit(__shfl_sync(all_lanes, word_[q], source));
      }
    }
  }

  // This lane's words: visit(position, word).
  template <typename Visit>
  __device__ __forceinline__ void for_own(Visit visit) const {
#pragma unroll
    for (int q = 0; q < Depth; ++q) {
      if (const int p = q * warp_size + lane_; p < length_) visit(p, word_[q]);
    }
  }

 private:
  __device__ __forceinline__ unsigned better(Ranked candidate) const {
    return __ballot_sync(all_lanes, candidate > last());
  }

  int lane_, length_;
  Ranked word_[Depth] = {};
};

}  // namespace xbridge

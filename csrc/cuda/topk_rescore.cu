// The k best keys of every query among the tiles of keys that were chosen for it (pass 2 of exact search by tile maxima).
//
// A query wants a few tiles and a tile is wanted by many queries, so the work is grouped by tile, or keys would be read
// once per query: `rescore_tiles` takes (query, tile) pairs sorted by tile, 64 pairs to a block, and computes 64 x 128
// scores at a time in float32 as a plain product of two matrices; a warp then keeps the best of each row.
// `rescore_rows` merges a query's tiles and computes the scores of the few that are left again, in float64.
//
// Shape letters: n queries, m keys, d features, T tiles chosen per query, K words kept per (query, tile).

#include <algorithm>
#include <cmath>

#include <torch/csrc/stable/library.h>

#include "warp_list.cuh"

namespace xbridge {
namespace {

constexpr int threads = 128;
constexpr int warps = threads / warp_size;
constexpr int block_rows = 64;   // (query, tile) pairs of a block
constexpr int block_keys = 128;  // keys scored at a time
constexpr int block_depth = 16;  // features staged at a time
constexpr int vector = 4;        // features that a thread reads at once
constexpr int padding = 4;       // keeps 16-byte alignment and spreads a column of the stage over the banks
constexpr int long_list = 4;     // words per lane of a list of more than 32

// What a thread computes: rows 8 y .. 8 y + 7 against keys 4 x .. 4 x + 3 and 64 + 4 x .. 64 + 4 x + 3, where
// x = thread % 16, y = thread / 16. Sixteen threads that read neighbouring keys in 16-byte words meet no bank twice.
constexpr int thread_rows = 8, thread_keys = 8, threads_across = block_keys / thread_keys;
static_assert(threads == threads_across * block_rows / thread_rows);

struct Stage {
  float rows[block_depth][block_rows + padding];
  float keys[block_depth][block_keys + padding];
};

// The scores take the place of the staged features when these are used up.
union Shared {
  Stage stage[2];
  float scores[block_rows][block_keys + padding];
};

// One thread's part of `Count` rows x 16 features on their way to shared memory; four threads read a row's 16 features.
// Rows that are not there read as zeros.
template <typename T, int Count>
class Transfer {
 public:
  template <typename RowOf>  // row_of(r): its first feature, or nullptr
  __device__ __forceinline__ void read(int thread, int first_feature, int d, RowOf row_of) {
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      const int j = first_feature + feature(thread, s);
      const T* from = row_of(row(thread, s));
      if (from != nullptr && j < d) {
        const auto pack = load<vector>(from + j);
#pragma unroll
        for (int e = 0; e < vector; ++e) values_[s * vector + e] = static_cast<float>(pack.values[e]);
      } else {
#pragma unroll
        for (int e = 0; e < vector; ++e) values_[s * vector + e] = 0;
      }
    }
  }

  __device__ __forceinline__ void write(int thread, float (*to)[Count + padding]) const {
#pragma unroll
    for (int s = 0; s < steps; ++s) {
#pragma unroll
      for (int e = 0; e < vector; ++e) to[feature(thread, s) + e][row(thread, s)] = values_[s * vector + e];
    }
  }

 private:
  static constexpr int per_row = block_depth / vector;
  static constexpr int steps = Count * per_row / threads;
  static __device__ __forceinline__ int row(int thread, int s) { return (s * threads + thread) / per_row; }
  static __device__ __forceinline__ int feature(int thread, int s) { return (s * threads + thread) % per_row * vector; }

  float values_[steps * vector];
};

__device__ __forceinline__ void read_four(float* to, const float* from) {
  const auto pack = load<4>(from);
#pragma unroll
  for (int e = 0; e < 4; ++e) to[e] = pack.values[e];
}

__device__ __forceinline__ void multiply(const Stage& stage, int thread, float (&sums)[thread_rows][thread_keys]) {
  const int y = thread / threads_across, x = thread % threads_across;
#pragma unroll
  for (int j = 0; j < block_depth; ++j) {
    float a[thread_rows], b[thread_keys];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      read_four(a + 4 * half, &stage.rows[j][thread_rows * y + 4 * half]);
      read_four(b + 4 * half, &stage.keys[j][4 * x + block_keys / 2 * half]);
    }
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) {
#pragma unroll
      for (int c = 0; c < thread_keys; ++c) sums[r][c] = fmaf(a[r], b[c], sums[r][c]);
    }
  }
}

// scores[r][c] = row r . key c, features added in order: a pair's score does not depend on where in a block it stands.
template <typename T, typename RowOf, typename KeyOf>
__device__ __forceinline__ void score_block(Shared& shared, int thread, int d, RowOf row_of, KeyOf key_of) {
  float sums[thread_rows][thread_keys] = {};
  Transfer<T, block_rows> rows;
  Transfer<T, block_keys> keys;
  rows.read(thread, 0, d, row_of);
  keys.read(thread, 0, d, key_of);
  for (int j = 0, turn = 0; j < d; j += block_depth, turn ^= 1) {
    Stage& stage = shared.stage[turn];
    rows.write(thread, stage.rows);
    keys.write(thread, stage.keys);
    __syncthreads();  // one is enough: the other stage is written only after everybody has passed the next one
    if (j + block_depth < d) {
      rows.read(thread, j + block_depth, d, row_of);
      keys.read(thread, j + block_depth, d, key_of);
    }
    multiply(stage, thread, sums);
  }
  __syncthreads();
  const int y = thread / threads_across, x = thread % threads_across;
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
#pragma unroll
    for (int c = 0; c < thread_keys; ++c) {
      shared.scores[thread_rows * y + r][4 * x + c % 4 + block_keys / 2 * (c / 4)] = sums[r][c];
    }
  }
  __syncthreads();
}

// Pairs of a block that want one tile: pairs[begin .. end).
struct Run {
  int begin, end;
  int64_t tile;
};

__device__ __forceinline__ Run next_run(const int64_t* tile_of, int begin, int count) {
  int end = begin + 1;
  while (end < count && tile_of[end] == tile_of[begin]) ++end;
  return {begin, end, tile_of[begin]};
}

// best[pair]: K words. tiles: (n T), rising; pairs: (n T), which pair (query T + slot) each of them is.
template <typename T, int Depth>
__global__ void __launch_bounds__(threads, 3)
    rescore_tiles(Rows<const T> queries, Rows<const T> keys, const int64_t* tiles, const int64_t* pairs,
                  int64_t num_pairs, int num_slots, int64_t tile_width, Ranked* best, int num_kept, int d) {
  __shared__ Shared shared;
  __shared__ int64_t tile_of[block_rows], pair_of[block_rows];
  const int thread = threadIdx.x, lane = thread % warp_size, warp = thread / warp_size;
  const int64_t first = int64_t{blockIdx.x} * block_rows;
  const int count = static_cast<int>(min(int64_t{block_rows}, num_pairs - first));
  if (thread < count) {
    tile_of[thread] = tiles[first + thread];
    pair_of[thread] = pairs[first + thread];
  }
  __syncthreads();
  for (int begin = 0; begin < count;) {
    const Run run = next_run(tile_of, begin, count);
    begin = run.end;
    const int64_t keys_begin = run.tile < 0 ? keys.count : min(run.tile * tile_width, keys.count);
    const int64_t keys_end = min(keys_begin + tile_width, keys.count);
    for (int r = run.begin + warp; r < run.end; r += warps) {
      WarpList<Depth>(lane, num_kept).write(best + pair_of[r] * num_kept);
    }
    for (int64_t base = keys_begin; base < keys_end; base += block_keys) {
      const auto row_of = [&](int r) {
        return r < run.end - run.begin ? queries[pair_of[run.begin + r] / num_slots] : nullptr;
      };
      const auto key_of = [&](int c) { return base + c < keys_end ? keys[base + c] : nullptr; };
      score_block<T>(shared, thread, d, row_of, key_of);
      for (int r = run.begin + warp; r < run.end; r += warps) {
        Ranked* to = best + pair_of[r] * num_kept;  // read and written by the same lanes in every turn of the loop
        WarpList<Depth> list(lane, num_kept);
        list.read(to);
        for (int c = lane; c < block_keys; c += warp_size) {
          list.offer(base + c < keys_end ? rank(shared.scores[r - run.begin][c], base + c) : 0);
        }
        list.write(to);
      }
      __syncthreads();
    }
  }
}

template <typename T>
__device__ __forceinline__ float exact_score(const T* query, const T* key, int d, int lane) {
  double sum = 0;
#pragma unroll 4
  for (int j = lane; j < d; j += warp_size) {
    sum = fma(static_cast<double>(static_cast<float>(query[j])), static_cast<double>(static_cast<float>(key[j])), sum);
  }
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  return static_cast<float>(sum);
}

// scores, indices: (n, k); floors: (n,), no key that was dropped has a float32 score above it.
template <typename T, int Depth>
__global__ void __launch_bounds__(threads)
    rescore_rows(Rows<const T> queries, Rows<const T> keys, const Ranked* best, int num_slots, int num_kept,
                 float* scores, int64_t* indices, float* floors, int k, int d) {
  const int lane = threadIdx.x % warp_size;
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / warp_size;
  if (i >= queries.count) return;
  const int num_words = num_slots * num_kept;
  const Ranked* words = best + i * num_words;
  WarpList<Depth> list(lane, num_kept);
  for (int p = lane; p - lane < num_words; p += warp_size) list.offer(p < num_words ? words[p] : 0);
  const Ranked last = list.last();
  if (lane == 0) floors[i] = last == 0 ? -INFINITY : score_of(last);
  WarpList<Depth> exact(lane, num_kept);
  list.for_each([&](Ranked word) {
    if (word == 0) return;
    const int64_t index = index_of(word);
    exact.insert(rank(exact_score(queries[i], keys[index], d, lane), index));
  });
  exact.for_own([&](int p, Ranked word) {
    if (p >= k) return;
    scores[i * k + p] = word == 0 ? -INFINITY : score_of(word);
    indices[i * k + p] = word == 0 ? -1 : index_of(word);
  });
}

void check(const Tensor& queries, const Tensor& keys, const Tensor& best) {
  STD_TORCH_CHECK(queries.dim() == 2 && keys.dim() == 2 && queries.size(1) == keys.size(1),
                  "topk_rescore: queries must be (n, d) and keys (m, d)");
  STD_TORCH_CHECK(queries.scalar_type() == keys.scalar_type(), "topk_rescore: queries and keys must have one type");
  STD_TORCH_CHECK(queries.size(1) <= 1 || (queries.stride(1) == 1 && keys.stride(1) == 1),
                  "topk_rescore: a row must be contiguous");
  STD_TORCH_CHECK(queries.size(1) <= INT32_MAX - block_depth && keys.size(0) < UINT32_MAX,
                  "topk_rescore: fewer than 2^32 - 1 keys and 2^31 features, please");
  STD_TORCH_CHECK(best.dim() == 3 && best.size(0) == queries.size(0) && best.is_contiguous() &&
                      best.scalar_type() == ScalarType::Long,
                  "topk_rescore: best must be (n, tiles, kept) int64, contiguous");
  const int64_t kept = best.size(2), shortest_long = warp_size * (long_list - 1);
  STD_TORCH_CHECK((kept >= 1 && kept <= warp_size) || (kept > shortest_long && kept <= warp_size * long_list),
                  "topk_rescore: 1 to 32 or 97 to 128 words are kept, not ", kept);
  STD_TORCH_CHECK(best.size(1) * best.size(2) <= INT32_MAX, "topk_rescore: too many tiles per query");
}

void check_vector(const Tensor& vector, int64_t length, ScalarType type, const char* name) {
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == length && vector.is_contiguous() &&
                      vector.scalar_type() == type,
                  "topk_rescore: ", name, " must be a contiguous vector of ", length);
}

template <typename Visit>
void visit_depth(int64_t num_kept, Visit visit) {
  if (num_kept <= warp_size) return visit(std::integral_constant<int, 1>{});
  visit(std::integral_constant<int, long_list>{});
}

void rescore_tiles_op(Tensor queries, Tensor keys, Tensor tiles, Tensor pairs, int64_t tile_width, Tensor best) {
  check(queries, keys, best);
  check_one_device("topk_rescore", queries, {&keys, &tiles, &pairs, &best});
  const int64_t num_pairs = best.size(0) * best.size(1);
  check_vector(tiles, num_pairs, ScalarType::Long, "tiles");
  check_vector(pairs, num_pairs, ScalarType::Long, "pairs");
  STD_TORCH_CHECK(tile_width >= 1, "topk_rescore: tile_width must be at least 1");
  STD_TORCH_CHECK(queries.size(1) % vector == 0, "topk_rescore: the number of features must be a multiple of 4");
  if (num_pairs == 0) return;
  const OnDeviceOf device(queries);
  visit_float(queries.scalar_type(), "topk_rescore: queries", [&]<typename T>(Type<T>) {
    STD_TORCH_CHECK((is_aligned<T, vector>(queries.data_ptr(), queries.stride(0))) &&
                        (is_aligned<T, vector>(keys.data_ptr(), keys.stride(0))),
                    "topk_rescore: rows must start at multiples of 4 elements");
    visit_depth(best.size(2), [&]<int Depth>(std::integral_constant<int, Depth>) {
      device.launch(rescore_tiles<T, Depth>, ceil_div(num_pairs, block_rows), threads,
                    rows_of<const T>(queries), rows_of<const T>(keys), static_cast<const int64_t*>(tiles.data_ptr()),
                    static_cast<const int64_t*>(pairs.data_ptr()), num_pairs, static_cast<int>(best.size(1)),
                    tile_width, static_cast<Ranked*>(best.data_ptr()), static_cast<int>(best.size(2)),
                    static_cast<int>(queries.size(1)));
    });
  });
}

void rescore_rows_op(Tensor queries, Tensor keys, Tensor best, Tensor scores, Tensor indices, Tensor floors) {
  check(queries, keys, best);
  check_one_device("topk_rescore", queries, {&keys, &best, &scores, &indices, &floors});
  STD_TORCH_CHECK(scores.dim() == 2 && indices.dim() == 2 && scores.size(0) == queries.size(0) &&
                      indices.size(0) == queries.size(0) && scores.size(1) == indices.size(1) &&
                      scores.size(1) <= best.size(2) && scores.is_contiguous() && indices.is_contiguous() &&
                      scores.scalar_type() == ScalarType::Float && indices.scalar_type() == ScalarType::Long,
                  "topk_rescore: scores must be (n, k) float32 and indices (n, k) int64, k at most what is kept");
  check_vector(floors, queries.size(0), ScalarType::Float, "floors");
  if (queries.size(0) == 0) return;
  const OnDeviceOf device(queries);
  visit_float(queries.scalar_type(), "topk_rescore: queries", [&]<typename T>(Type<T>) {
    visit_depth(best.size(2), [&]<int Depth>(std::integral_constant<int, Depth>) {
      device.launch(rescore_rows<T, Depth>, ceil_div(queries.size(0), warps), threads, rows_of<const T>(queries),
                    rows_of<const T>(keys), static_cast<const Ranked*>(best.data_ptr()),
                    static_cast<int>(best.size(1)), static_cast<int>(best.size(2)),
                    static_cast<float*>(scores.data_ptr()), static_cast<int64_t*>(indices.data_ptr()),
                    static_cast<float*>(floors.data_ptr()), static_cast<int>(scores.size(1)),
                    static_cast<int>(queries.size(1)));
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CUDA, m) {
  m.impl("rescore_tiles", TORCH_BOX(&rescore_tiles_op));
  m.impl("rescore_rows", TORCH_BOX(&rescore_rows_op));
}

}  // namespace xbridge

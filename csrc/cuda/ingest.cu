// One pass over rows: shift, scale, cast, squared lengths in float64, and the first row that is not finite.
//
// A warp owns a row, so nothing but the number of the first bad row is shared, and a minimum does not depend on order:
// results are the same for every grid. Each entry is read once and written once. Every instruction moves as many
// elements as fit in 16 bytes of the wider of the two types: then neighbouring lanes touch neighbouring bytes on both
// sides (reading 16 bytes of bfloat16 to write 32 of float32 would leave gaps between the lanes' stores).

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <torch/csrc/stable/library.h>

#include "common.cuh"

namespace xbridge {
namespace {

constexpr int threads = 128;
constexpr int warps = threads / warp_size;
constexpr int in_flight = 4;  // loads of a lane before the first is used
constexpr int blocks_per_multiprocessor = 16;

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T, typename Out>
constexpr int vector_length = 16 / std::max(sizeof(T), sizeof(Out));

template <typename T, typename Out>
__device__ __forceinline__ Out cast(T x, Wide<T> shift, Wide<T> scale, double& squares) {
  const auto value = static_cast<Out>(static_cast<float>((static_cast<Wide<T>>(x) - shift) * scale));
  const double exact = static_cast<float>(value);
  squares += exact * exact;
  return value;
}

template <typename T, typename Out, int Vec>
__global__ void __launch_bounds__(threads, 8)
    ingest_rows(Rows<const T> x, const Wide<T>* shift, Wide<T> scale, Rows<Out> rows, double* lengths,
                int64_t lengths_stride, unsigned long long* first_bad, int d) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int vectors = d / Vec;
  for (int64_t i = int64_t{blockIdx.x} * warps + warp; i < x.count; i += int64_t{gridDim.x} * warps) {
    const T* in = x[i];
    Out* out = rows[i];
    double squares = 0;
    for (int first = lane; first < vectors; first += warp_size * in_flight) {
      Pack<T, Vec> read[in_flight];
#pragma unroll
      for (int u = 0; u < in_flight; ++u) {
        const int v = first + u * warp_size;
        if (v < vectors) read[u] = load<Vec>(in + int64_t{v} * Vec);
      }
#pragma unroll
      for (int u = 0; u < in_flight; ++u) {
        const int v = first + u * warp_size;
        if (v >= vectors) break;
        const auto offset = load<Vec>(shift + int64_t{v} * Vec);
        Pack<Out, Vec> written;
#pragma unroll
        for (int e = 0; e < Vec; ++e) {
          written.values[e] = cast<T, Out>(read[u].values[e], offset.values[e], scale, squares);
        }
        store(out + int64_t{v} * Vec, written);
      }
    }
    if (const int64_t j = int64_t{vectors} * Vec + lane; j < d) out[j] = cast<T, Out>(in[j], shift[j], scale, squares);
#pragma unroll
    for (int step = warp_size / 2; step > 0; step /= 2) squares += __shfl_xor_sync(all_lanes, squares, step);
    if (lane == 0) {
      lengths[i * lengths_stride] = squares;
      // float64 holds the square of any float32 and the sum of 2^31 of them: not finite means that an entry is not
      if (!isfinite(squares)) atomicMin(first_bad, static_cast<unsigned long long>(i));
    }
  }
}

template <typename T, typename Out>
void launch_ingest(const OnDeviceOf& device, const Tensor& x, const Tensor& shift, double scale, const Tensor& rows,
                   const Tensor& squared_lengths, unsigned long long* first_bad) {
  constexpr int Vec = vector_length<T, Out>;
  const auto* shift_data = static_cast<const Wide<T>*>(shift.data_ptr());
  const bool aligned = is_aligned<T, Vec>(x.data_ptr(), x.stride(0)) &&
                       is_aligned<Out, Vec>(rows.data_ptr(), rows.stride(0)) &&
                       is_aligned<Wide<T>, Vec>(shift_data, 0);
  const int64_t blocks =
      std::min(ceil_div(x.size(0), warps), int64_t{device.num_multiprocessors()} * blocks_per_multiprocessor);
  device.launch(aligned ? ingest_rows<T, Out, Vec> : ingest_rows<T, Out, 1>, blocks, threads, rows_of<const T>(x),
                shift_data, static_cast<Wide<T>>(scale), rows_of<Out>(rows),
                static_cast<double*>(squared_lengths.data_ptr()), squared_lengths.stride(0), first_bad,
                static_cast<int>(x.size(1)));
}

void check(const Tensor& x, const Tensor& shift, const Tensor& rows, const Tensor& squared_lengths) {
  STD_TORCH_CHECK(x.dim() == 2 && rows.dim() == 2 && x.size(0) == rows.size(0) && x.size(1) == rows.size(1),
                  "ingest: x and rows must both be (n, d)");
  STD_TORCH_CHECK(x.size(1) <= INT32_MAX, "ingest: rows have more than 2^31 - 1 columns");
  STD_TORCH_CHECK(x.size(1) <= 1 || (x.stride(1) == 1 && rows.stride(1) == 1), "ingest: a row must be contiguous");
  STD_TORCH_CHECK(squared_lengths.scalar_type() == ScalarType::Double && squared_lengths.dim() == 1 &&
                      squared_lengths.size(0) == x.size(0),
                  "ingest: squared_lengths must be (n,) float64");
  STD_TORCH_CHECK(shift.dim() == 1 && shift.size(0) == x.size(1) && shift.is_contiguous(), "ingest: shift must be (d,)");
  STD_TORCH_CHECK(
      shift.scalar_type() == (x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      "ingest: shift must be float32, or float64 for float64 rows");
  check_one_device("ingest", x, {&shift, &rows, &squared_lengths});
}

int64_t ingest(Tensor x, Tensor shift, double scale, Tensor rows, Tensor squared_lengths) {
  check(x, shift, rows, squared_lengths);
  if (x.size(0) == 0) return -1;
  const OnDeviceOf device(x);
  const Tensor first_bad = torch::stable::new_empty(x, {1}, ScalarType::Long);
  auto* first_bad_data = static_cast<unsigned long long*>(first_bad.data_ptr());
  STD_CUDA_CHECK(cudaMemsetAsync(first_bad_data, 0xff, sizeof(*first_bad_data), device.stream()));
  visit_float(rows.scalar_type(), "ingest: rows", [&]<typename Out>(Type<Out>) {
    const auto run = [&]<typename T>(Type<T>) {
      launch_ingest<T, Out>(device, x, shift, scale, rows, squared_lengths, first_bad_data);
    };
    if (x.scalar_type() == ScalarType::Double) return run(Type<double>{});
    visit_float(x.scalar_type(), "ingest: x", run);
  });
  int64_t found = -1;  // what memset wrote, where no row is bad
  STD_CUDA_CHECK(cudaMemcpyAsync(&found, first_bad_data, sizeof(found), cudaMemcpyDeviceToHost, device.stream()));
  STD_CUDA_CHECK(cudaStreamSynchronize(device.stream()));
  return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CUDA, m) { m.impl("ingest", TORCH_BOX(&ingest)); }

}  // namespace xbridge

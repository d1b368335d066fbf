// What the kernels share: torch's device and stream, a typed launch, vectors of elements, and the element types.
#pragma once

#include <initializer_list>

#include <cuda_runtime.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "../common.h"

namespace xbridge {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

// The device of a tensor, made current for as long as this lives, and torch's current stream on it.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int num_multiprocessors() const {
    int count = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index_));
    return count;
  }

  template <typename... Params, typename... Args>
  void launch(void (*kernel)(Params...), int64_t blocks, int threads, Args... args) const {
    STD_TORCH_CHECK(blocks <= INT32_MAX, "xbridge: a launch of ", blocks, " blocks; pass fewer rows at a time");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream_;
    static_cast<void>(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

inline void check_one_device(const char* op, const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* other : others) {
    STD_TORCH_CHECK(other->is_cuda() == first.is_cuda() && other->get_device_index() == first.get_device_index(), op,
                    ": all tensors must be on one device");
  }
}

// N elements that one thread loads or stores at once: up to 16 bytes an instruction.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T values[N];
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <typename T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// True where every row of a matrix (or a vector, as one row) starts at a multiple of a Pack<T, N>.
template <typename T, int N>
bool is_aligned(const void* data, int64_t row_stride) {
  const auto alignment = static_cast<int64_t>(alignof(Pack<T, N>));
  return reinterpret_cast<uintptr_t>(data) % alignment == 0 && row_stride * int64_t{sizeof(T)} % alignment == 0;
}

// A matrix as a kernel sees it: rows `stride` elements apart, each contiguous.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  int64_t count;
  __device__ __forceinline__ T* operator[](int64_t row) const { return data + row * stride; }
};

template <typename T>
Rows<T> rows_of(const Tensor& matrix) {
  return {static_cast<T*>(matrix.data_ptr()), matrix.stride(0), matrix.size(0)};
}

template <typename T>
struct Type {
  using type = T;
};

// Calls visit(Type<T>) for the element type of `type`: float16, bfloat16 or float32.
template <typename Visit>
void visit_float(ScalarType type, const char* what, Visit visit) {
  switch (type) {
    case ScalarType::Float: return visit(Type<float>{});
    case ScalarType::Half: return visit(Type<Half>{});
    case ScalarType::BFloat16: return visit(Type<BFloat16>{});
    default: STD_TORCH_CHECK(false, what, " must be float16, bfloat16 or float32");
  }
}

}  // namespace xbridge

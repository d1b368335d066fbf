// As much of CUDA as csrc/cuda uses, on the CPU, so that the kernels' logic runs where there is no GPU.
//
// The .cu files are compiled as C++ with this folder first on the include path. A block's threads are coroutines that run
// in turn, from one barrier to the next; a collective of a warp waits until all its lanes have come. It is strict where a
// GPU is lenient: a lane that is missing from a collective, or a barrier that not every thread reaches, ends the process.
// It says nothing about memory order, alignment, registers or speed: those need nvcc and a GPU.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define CUDA CPU  // the dispatch key under which the kernels are registered
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)

using std::isfinite;
using std::max;
using std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x) : x(x) {}
};

inline dim3 threadIdx, blockIdx, gridDim;  // of the thread that runs

namespace cuda_on_cpu {

constexpr int lanes = 32;
constexpr size_t stack_bytes = 256 << 10;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s\n", what);
  std::abort();
}

enum class State { running, at_barrier, in_warp, finished };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  State state = State::running;
  uint64_t given[2] = {};  // to collectives of the warp, by turns: a fast lane may be one ahead of a slow one
  int turn = 0;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Thread> threads;
  std::function<void()> body;
};

inline Block* block = nullptr;

inline void wait_as(State state) {
  Thread& self = block->threads[threadIdx.x];
  self.state = state;
  swapcontext(&self.context, &block->scheduler);
}

inline void run_thread() {
  block->body();
  block->threads[threadIdx.x].state = State::finished;
  swapcontext(&block->threads[threadIdx.x].context, &block->scheduler);
}

// Releases whoever waits in `state` in threads [begin, end) once all of them do.
inline bool release(unsigned begin, unsigned end, State state) {
  for (unsigned t = begin; t < end; ++t) {
    if (block->threads[t].state != state) return false;
  }
  for (unsigned t = begin; t < end; ++t) block->threads[t].state = State::running;
  return true;
}

inline void run_block() {
  const auto count = static_cast<unsigned>(block->threads.size());
  bool forwards = true;  // and backwards in turn, so that neither order can stand in for a missing barrier
  for (;;) {
    for (unsigned t = 0; t < count; ++t) {
      threadIdx.x = forwards ? t : count - 1 - t;
      Thread& thread = block->threads[threadIdx.x];
      if (thread.state == State::running) swapcontext(&block->scheduler, &thread.context);
    }
    forwards = !forwards;
    bool moved = release(0, count, State::at_barrier);
    for (unsigned begin = 0; begin < count; begin += lanes) {
      moved |= release(begin, std::min(count, begin + lanes), State::in_warp);
    }
    if (moved) continue;
    for (const Thread& thread : block->threads) {
      if (thread.state != State::finished) fail("threads wait for one another: a diverged barrier or collective");
    }
    return;
  }
}

inline void run_grid(dim3 grid, dim3 size, std::function<void()> body) {
  Block here;
  here.body = std::move(body);
  here.threads.resize(size.x);
  block = &here;
  gridDim = grid;
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
    for (Thread& thread : here.threads) {
      thread.state = State::running;
      thread.turn = 0;
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = stack_bytes;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, run_thread, 0);
    }
    run_block();
  }
  block = nullptr;
}

// All lanes give a word; every lane then sees all of them.
template <typename T>
auto exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu || block->threads.size() % lanes != 0) fail("only whole warps");
  Thread& self = block->threads[threadIdx.x];
  const int turn = self.turn;
  self.turn ^= 1;
  std::memcpy(&self.given[turn], &value, sizeof(T));
  wait_as(State::in_warp);
  const unsigned first = threadIdx.x / lanes * lanes;
  return [first, turn](unsigned lane) {
    T seen;
    std::memcpy(&seen, &block->threads[first + lane].given[turn], sizeof(T));
    return seen;
  };
}

inline unsigned lane() { return threadIdx.x % lanes; }

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait_as(cuda_on_cpu::State::at_barrier); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return cuda_on_cpu::exchange(mask, value)(static_cast<unsigned>(source) % cuda_on_cpu::lanes);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  return cuda_on_cpu::exchange(mask, value)(cuda_on_cpu::lane() ^ static_cast<unsigned>(step));
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  const auto seen = cuda_on_cpu::exchange(mask, value);
  return cuda_on_cpu::lane() < step ? value : seen(cuda_on_cpu::lane() - step);
}

inline unsigned __ballot_sync(unsigned mask, bool value) {
  const auto seen = cuda_on_cpu::exchange(mask, value);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < cuda_on_cpu::lanes; ++lane) votes |= unsigned{seen(lane)} << lane;
  return votes;
}

inline int __ffs(int word) { return __builtin_ffs(word); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }

template <typename T>
T atomicMin(T* at, T value) {
  const T seen = *at;
  *at = std::min(seen, value);
  return seen;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args... args) {
  cuda_on_cpu::run_grid(config->gridDim, config->blockDim, [=] { kernel(args...); });
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

// Two multiprocessors: a grid that strides over its rows takes several turns even in a small test.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 2;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t count, cudaStream_t) {
  std::memset(to, byte, count);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t count, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, count);
  return cudaSuccess;
}

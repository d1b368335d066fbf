// Arrays on cache lines.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace xbridge {

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

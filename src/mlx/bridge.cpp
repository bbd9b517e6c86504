// What mlx-c does not offer: an array over memory that somebody else owns, on a
// build of MLX without a GPU allocator.

#include <cstddef>
#include <memory>

#include "mlx/c/array.h"
#include "mlx/mlx.h"

#include "dtype.h"

namespace {

// The CPU allocator's Buffer points to a size header right in front of the data.
constexpr std::size_t header_bytes = sizeof(std::size_t);

}  // namespace

// Whether the libmlx that was loaded lays its buffers out as described above:
// GPU builds of the same version do not.
extern "C" bool umrt_mlx_can_wrap(void) {
  try {
    auto buffer = mx::allocator::malloc(64);
    bool can = buffer.ptr() != nullptr &&
        buffer.raw_ptr() == static_cast<char*>(buffer.ptr()) + header_bytes;
    mx::allocator::free(buffer);
    return can;
  } catch (...) {
    return false;
  }
}

// An array over `data` without a copy. The `header_bytes` in front of `data`
// must be readable. `release(payload)` is called once, from any thread, when
// MLX no longer needs the memory; also when this fails (returns null).
extern "C" void* umrt_mlx_wrap(
    void* data,
    const int* shape,
    std::size_t rank,
    mlx_dtype dtype,
    void* payload,
    void (*release)(void*)) noexcept {
  try {
    // Released with the last copy of the deleter below, whatever happens.
    std::shared_ptr<void> owner(payload, release);
    const mx::Dtype* type = dtype_of(dtype);
    if (type == nullptr) {
      return nullptr;
    }
    mx::allocator::Buffer buffer(static_cast<char*>(data) - header_bytes);
    return new mx::array(
        buffer, mx::Shape(shape, shape + rank), *type, [owner](mx::allocator::Buffer) {});
  } catch (...) {
    return nullptr;
  }
}

// Arrays whose values a Rust function computes on the CPU: at once, or as nodes of
// MLX's graph.

#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/stream.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

#include "dtype.h"

namespace {

mx::allocator::Buffer allocate(std::size_t bytes) {
  auto buffer = mx::allocator::malloc(bytes);
  if (buffer.ptr() == nullptr) {
    throw std::bad_alloc();
  }
  return buffer;
}

// Called on the stream's thread with the row-contiguous bytes of the inputs and of
// the output. Must not unwind.
using Compute = void (*)(void* kernel, const void* const* inputs, void* output);

class RustKernel : public mx::Primitive {
 public:
  RustKernel(mx::Stream stream, Compute compute, std::shared_ptr<void> kernel)
      : mx::Primitive(stream), compute_(compute), kernel_(std::move(kernel)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& output = outputs[0];
    std::vector<const void*> read;
    read.reserve(inputs.size());
    for (const auto& input : inputs) {
      read.push_back(dense(input));
    }
    output.set_data(allocate(output.nbytes()));
    // MLX keeps inputs and output alive until this has run.
    mx::cpu::get_command_encoder(stream()).dispatch(
        [compute = compute_, kernel = kernel_, read = std::move(read), after = output.data<void>()]() {
          compute(kernel.get(), read.data(), after);
        });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("this kernel runs on the CPU only");
  }

  const char* name() const override {
    return "RustKernel";
  }

 private:
  static const void* dense(const mx::array& input) {
    if (!input.flags().row_contiguous) {
      throw std::runtime_error("a kernel's input is not contiguous");
    }
    return input.data<void>();
  }

  Compute compute_;
  std::shared_ptr<void> kernel_;
};

// A buffer that nobody else has yet.
struct OwnBuffer {
  mx::allocator::Buffer buffer;

  ~OwnBuffer() {
    if (buffer.ptr() != nullptr) {
      mx::allocator::free(buffer);
    }
  }
};

}  // namespace

// An array with memory of its own, at `*data`, which the caller is to fill before
// anybody else sees it. Null if there is none; the message is in mlx-c's error
// handler.
extern "C" void* umrt_mlx_unfilled(
    const int* shape,
    std::size_t rank,
    mlx_dtype dtype,
    void** data) noexcept {
  try {
    auto type = dtype_of(dtype);
    if (type == nullptr) {
      throw std::invalid_argument("no such element type");
    }
    mx::Shape dims(shape, shape + rank);
    std::size_t bytes = mx::size_of(*type);
    for (auto length : dims) {
      bytes *= static_cast<std::size_t>(length);
    }
    OwnBuffer own{allocate(bytes)};
    auto* made = new mx::array(own.buffer, std::move(dims), *type);
    own.buffer = mx::allocator::Buffer{nullptr};
    *data = made->data<void>();
    return made;
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("making an array failed");
  }
  return nullptr;
}

// An array of the given shape and type that `compute` will fill from `inputs`.
// `release(kernel)` is called once, when nothing needs the kernel any more; also
// when this fails (returns null, and the message is in mlx-c's error handler).
extern "C" void* umrt_mlx_kernel(
    const mlx_array* inputs,
    std::size_t n_inputs,
    const int* shape,
    std::size_t rank,
    mlx_dtype dtype,
    mlx_stream stream,
    Compute compute,
    void* kernel,
    void (*release)(void*)) noexcept {
  try {
    std::shared_ptr<void> owner(kernel, release);
    std::vector<mx::array> arrays;
    arrays.reserve(n_inputs);
    for (std::size_t i = 0; i < n_inputs; ++i) {
      arrays.push_back(*static_cast<mx::array*>(inputs[i].ctx));
    }
    auto type = dtype_of(dtype);
    if (type == nullptr) {
      throw std::invalid_argument("no such element type");
    }
    auto on = *static_cast<mx::Stream*>(stream.ctx);
    return new mx::array(
        mx::Shape(shape, shape + rank),
        *type,
        std::make_shared<RustKernel>(on, compute, std::move(owner)),
        std::move(arrays));
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("making a kernel's node failed");
  }
  return nullptr;
}

// Nodes of MLX's graph whose values a Rust function computes on the CPU.

#include <cstddef>
#include <cstring>
#include <memory>
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

// Called on the stream's thread with the row-contiguous bytes of the inputs that
// are only read, and of the output. Must not unwind.
using Compute = void (*)(void* kernel, const void* const* inputs, void* output);

// Has one output: nodes with several hold each input as often, so that MLX never
// finds one that it could give away.
class RustKernel : public mx::Primitive {
 public:
  // With `updates` the last input becomes the output: in place when nothing else
  // holds it, as a copy otherwise.
  RustKernel(mx::Stream stream, Compute compute, std::shared_ptr<void> kernel, bool updates)
      : mx::Primitive(stream),
        compute_(compute),
        kernel_(std::move(kernel)),
        updates_(updates) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& output = outputs[0];
    auto n_read = inputs.size() - (updates_ ? 1 : 0);
    std::vector<const void*> read;
    read.reserve(n_read);
    for (std::size_t i = 0; i < n_read; ++i) {
      read.push_back(dense(inputs[i]));
    }
    const void* before = nullptr;
    if (updates_ && inputs.back().is_donatable() && inputs.back().flags().row_contiguous) {
      output.copy_shared_buffer(inputs.back());
    } else {
      before = updates_ ? dense(inputs.back()) : nullptr;
      output.set_data(mx::allocator::malloc(output.nbytes()));
    }
    // MLX keeps inputs and output alive until this has run.
    mx::cpu::get_command_encoder(stream()).dispatch([compute = compute_,
                                                     kernel = kernel_,
                                                     read = std::move(read),
                                                     before,
                                                     after = output.data<void>(),
                                                     bytes = output.nbytes()]() {
      if (before != nullptr) {
        std::memcpy(after, before, bytes);
      }
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
  bool updates_;
};

}  // namespace

// An array of the given shape and type that `compute` will fill from `inputs`.
// `release(kernel)` is called once, when nothing needs the kernel any more; also
// when this fails (returns null, and the message is in mlx-c's error handler).
extern "C" void* umrt_mlx_kernel(
    const mlx_array* inputs,
    std::size_t n_inputs,
    bool updates,
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
        std::make_shared<RustKernel>(on, compute, std::move(owner), updates),
        std::move(arrays));
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("making a kernel's node failed");
  }
  return nullptr;
}

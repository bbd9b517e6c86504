// mlx-c's element types as MLX's.

#pragma once

#include "mlx/c/array.h"
#include "mlx/mlx.h"

namespace mx = mlx::core;

// Null for those that umrt does not use.
inline const mx::Dtype* dtype_of(mlx_dtype dtype) {
  switch (dtype) {
    case MLX_BOOL: return &mx::bool_;
    case MLX_UINT8: return &mx::uint8;
    case MLX_UINT16: return &mx::uint16;
    case MLX_UINT32: return &mx::uint32;
    case MLX_INT32: return &mx::int32;
    case MLX_FLOAT16: return &mx::float16;
    case MLX_BFLOAT16: return &mx::bfloat16;
    case MLX_FLOAT32: return &mx::float32;
    default: return nullptr;
  }
}

# find_package(umrt) defines the imported targets umrt::umrt, the shared library, and
# umrt::static, which puts umrt into the program; MLX is a shared library with both.

get_filename_component(_umrt_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET umrt::umrt)
  add_library(umrt::umrt SHARED IMPORTED)
  set_target_properties(umrt::umrt PROPERTIES
    IMPORTED_LOCATION "${_umrt_prefix}/lib/libumrt.so.@VERSION@"
    IMPORTED_SONAME "@SONAME@"
    INTERFACE_INCLUDE_DIRECTORIES "${_umrt_prefix}/include")
endif()

if(NOT TARGET umrt::static)
  add_library(umrt::mlx SHARED IMPORTED)
  set_target_properties(umrt::mlx PROPERTIES
    IMPORTED_LOCATION "${_umrt_prefix}/lib/mlx/lib/libmlx.so"
    IMPORTED_SONAME "libmlx.so"
    INTERFACE_LINK_OPTIONS "-Wl,-rpath-link,${_umrt_prefix}/lib/mlx_cpu.libs")
  add_library(umrt::static STATIC IMPORTED)
  set_target_properties(umrt::static PROPERTIES
    IMPORTED_LOCATION "${_umrt_prefix}/lib/libumrt.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_umrt_prefix}/include"
    INTERFACE_LINK_LIBRARIES "umrt::mlx;stdc++;gcc_s;m;pthread;dl")
endif()

unset(_umrt_prefix)

/* What the programs of the GPU bundle share. Each prints one JSON object per line. */

#ifndef UMRT_GPU_REPORT_H
#define UMRT_GPU_REPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "umrt.h"

static inline void stop(const char *what) {
  fprintf(stderr, "%s: %s\n", what, umrt_last_error());
  exit(1);
}

static inline void need(umrt_status status, const char *what) {
  if (status != UMRT_OK) stop(what);
}

static inline void print_text(const char *text) {
  putchar('"');
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') putchar('\\');
    putchar((unsigned char)*text < ' ' ? ' ' : *text);
  }
  putchar('"');
}

/* "cpu", "stock" (the CPU by MLX's operations), "gpu", or a number for another GPU. */
static inline umrt_model_params params_for(const char *device) {
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  params.device = UMRT_DEVICE_CPU;
  if (strcmp(device, "stock") == 0) {
    params.cpu_ops = UMRT_CPU_OPS_STOCK;
  } else if (strcmp(device, "cpu") != 0) {
    params.device = UMRT_DEVICE_GPU;
    params.gpu_index = (uint32_t)strtoul(device, NULL, 10);
  }
  return params;
}

/* The same tokens for every device. */
static inline int32_t token_at(uint32_t index, uint32_t vocab_size) {
  uint32_t mixed = (index + 1) * 2654435761u;
  return (int32_t)((mixed ^ mixed >> 15) % vocab_size);
}

#endif

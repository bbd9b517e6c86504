#include <stdio.h>
#include <string.h>

#include "umrt.h"

/* What fragments take from their surroundings. */
umrt_model *model;
umrt_ctx *ctx;
umrt_sampler *sampler;
umrt_batch batch;

int32_t print(const char *text, size_t length, int32_t token, void *userdata) {
  (void)length, (void)token, (void)userdata;
  return fputs(text, stdout) == EOF;
}

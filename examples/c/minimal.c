/* The smallest useful program: minimal MODEL
 *
 * Prints a text as the model writes it, and what that took of memory. */

#include <stdio.h>

#include "umrt.h"

static int32_t print(const char *text, size_t length, int32_t token, void *userdata) {
  (void)length, (void)token, (void)userdata;
  return fputs(text, stdout) == EOF || fflush(stdout) == EOF;
}

int main(int argc, char **argv) {
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "Once upon a time";
  params.max_tokens = 100;
  fputs(params.prompt, stdout);

  int failed = umrt_model_open(argc > 1 ? argv[1] : ".", NULL, &model) != UMRT_OK ||
               umrt_ctx_new(model, NULL, &ctx) != UMRT_OK ||
               umrt_generate(ctx, &params, print, NULL, NULL, NULL) != UMRT_OK ||
               umrt_memory_stats(&memory) != UMRT_OK;
  if (failed)
    fprintf(stderr, "%s\n", umrt_last_error());
  else
    printf("\n%.1f MB of weights mapped, %.1f MB of KV cache\n", memory.weights_mapped_bytes / 1e6,
           memory.kv_used_bytes / 1e6);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return failed;
}

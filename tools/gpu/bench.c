/* Times a model on a device.
 *
 *   bench DEVICE MODEL N_PREFILL N_DECODE    DEVICE as in report.h
 *
 * The model needs a tokenizer, since generating gives text. Each figure is the best of several
 * passes. Bytes are those of MLX's arrays, against what was estimated before. */

#define _POSIX_C_SOURCE 199309L

#include <time.h>

#include "report.h"

enum { PASSES = 3, CHUNK = 2048, SHORT_PROMPT = 16 };

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double best(double a, double b) {
  return a > 0 && a < b ? a : b;
}

static void prompt(int32_t *tokens, uint32_t n, uint32_t vocab_size) {
  for (uint32_t i = 0; i < n; i++) tokens[i] = token_at(i, vocab_size);
}

static double prefill(umrt_ctx *ctx, const int32_t *tokens, uint32_t n) {
  umrt_batch batch = UMRT_BATCH_INIT;
  const float *logits = NULL;
  need(umrt_seq_trim(ctx, 0, 0), "trim");
  batch.tokens = tokens;
  batch.n_tokens = n;
  double start = seconds();
  need(umrt_eval(ctx, &batch, NULL, NULL), "prefill");
  need(umrt_logits_view(ctx, 0, &logits), "logits");
  return seconds() - start;
}

/* Per token, behind a short prompt. */
static double decode(umrt_ctx *ctx, const int32_t *tokens, uint32_t n) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  need(umrt_seq_trim(ctx, 0, 0), "trim");
  params.tokens = tokens;
  params.n_tokens = SHORT_PROMPT;
  params.max_tokens = n;
  params.flags = UMRT_GENERATE_IGNORE_END;
  need(umrt_generate(ctx, &params, NULL, NULL, NULL, &result), "generate");
  return (double)result.decode_ns * 1e-9 / result.n_tokens;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fputs("usage: bench DEVICE MODEL N_PREFILL N_DECODE\n", stderr);
    return 2;
  }
  uint32_t n_prefill = (uint32_t)strtoul(argv[3], NULL, 10);
  uint32_t n_decode = (uint32_t)strtoul(argv[4], NULL, 10);
  umrt_model_params model_params = params_for(argv[1]);
  umrt_ctx_params ctx_params = UMRT_CTX_PARAMS_INIT;
  umrt_memory_estimate estimate = UMRT_MEMORY_ESTIMATE_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  ctx_params.n_ctx = (n_prefill > n_decode ? n_prefill : n_decode) + SHORT_PROMPT;
  ctx_params.prefill_chunk = CHUNK;
  need(umrt_model_estimate(argv[2], &model_params, &ctx_params, &estimate), "estimate");
  double start = seconds();
  need(umrt_model_open(argv[2], &model_params, &model), "open");
  double open_s = seconds() - start;
  need(umrt_model_info_get(model, &info), "info");
  need(umrt_ctx_new(model, &ctx_params, &ctx), "context");
  int32_t *tokens = malloc((n_prefill + SHORT_PROMPT) * sizeof *tokens);
  if (tokens == NULL) return 1;
  prompt(tokens, n_prefill + SHORT_PROMPT, info.vocab_size);
  double prefill_s = 0, token_s = 0;
  for (int pass = 0; pass <= PASSES; pass++) {
    double one = prefill(ctx, tokens, n_prefill), other = decode(ctx, tokens, n_decode);
    /* The first one compiles kernels. */
    if (pass > 0) prefill_s = best(prefill_s, one), token_s = best(token_s, other);
  }
  need(umrt_memory_stats(&memory), "memory");
  printf("{\"engine\": \"umrt\", \"device\": \"%s\", \"model\": ", argv[1]);
  const char *name = strrchr(argv[2], '/');
  print_text(name ? name + 1 : argv[2]);
  printf(", \"weight_bytes\": %llu, \"open_s\": %.4f", (unsigned long long)info.weight_bytes, open_s);
  printf(", \"prefill_tokens\": %u, \"prefill_tokens_per_s\": %.1f", n_prefill,
         n_prefill / prefill_s);
  printf(", \"decode_tokens_per_s\": %.2f, \"decode_us_per_token\": %.1f", 1 / token_s,
         token_s * 1e6);
  printf(", \"mlx_peak_bytes\": %llu, \"gpu_bytes\": %llu, \"estimated_bytes\": %llu}\n",
         (unsigned long long)memory.mlx_peak_bytes, (unsigned long long)memory.gpu_bytes,
         (unsigned long long)estimate.total_bytes);
  free(tokens);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return 0;
}

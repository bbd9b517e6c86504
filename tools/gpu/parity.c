/* Compares what umrt's kernels on the CPU compute with what a device does.
 *
 *   parity DEVICE MODEL...    DEVICE as in report.h
 *
 * Everything is computed in float32. Fails if any model differs by more than the order of
 * summation explains; models that a device cannot run are skipped, and said so. */

#include <math.h>

#include "report.h"

enum { PROMPT = 24, STEPS = 6, MAX_VOCAB = 1 << 18 };

/* Of the range of the logits. */
static const double BOUND = 1e-4;

struct opened {
  umrt_model *model;
  umrt_ctx *ctx;
  uint32_t vocab_size;
};

static umrt_status open_on(const char *device, const char *path, struct opened *opened) {
  umrt_model_params params = params_for(device);
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  params.precision = UMRT_PRECISION_FLOAT32;
  umrt_status status = umrt_model_open(path, &params, &opened->model);
  if (status == UMRT_OK) status = umrt_ctx_new(opened->model, NULL, &opened->ctx);
  if (status == UMRT_OK) status = umrt_model_info_get(opened->model, &info);
  opened->vocab_size = info.vocab_size;
  return status;
}

static void close_it(struct opened *opened) {
  umrt_ctx_free(opened->ctx);
  umrt_model_free(opened->model);
  *opened = (struct opened){0};
}

/* Logits behind the last of the tokens from `first` on. */
static umrt_status logits_of(struct opened *opened, uint32_t first, uint32_t n, float *logits) {
  int32_t tokens[PROMPT];
  const float *row = NULL;
  umrt_batch batch = UMRT_BATCH_INIT;
  for (uint32_t i = 0; i < n; i++) tokens[i] = token_at(first + i, opened->vocab_size);
  batch.tokens = tokens;
  batch.n_tokens = n;
  umrt_status status = umrt_eval(opened->ctx, &batch, NULL, NULL);
  if (status == UMRT_OK) status = umrt_logits_view(opened->ctx, 0, &row);
  if (status == UMRT_OK) memcpy(logits, row, opened->vocab_size * sizeof *logits);
  return status;
}

static double larger(double a, double b) {
  return a > b ? a : b;
}

/* The largest difference over the range; infinite if something is no number. */
static double difference(const float *expected, const float *found, uint32_t n) {
  double low = expected[0], high = expected[0], largest = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (!isfinite(expected[i]) || !isfinite(found[i])) return INFINITY;
    low = -larger(-low, -expected[i]);
    high = larger(high, expected[i]);
    largest = larger(largest, fabs((double)expected[i] - found[i]));
  }
  return high > low ? largest / (high - low) : INFINITY;
}

static umrt_status compare(const char *device, const char *path, double *largest) {
  static float expected[MAX_VOCAB], found[MAX_VOCAB];
  struct opened cpu = {0}, other = {0};
  umrt_status status = open_on(device, path, &other);
  if (status == UMRT_OK) status = open_on("cpu", path, &cpu);
  if (status == UMRT_OK && cpu.vocab_size > MAX_VOCAB) status = UMRT_UNSUPPORTED;
  for (uint32_t step = 0; status == UMRT_OK && step <= STEPS; step++) {
    uint32_t first = step == 0 ? 0 : PROMPT + step - 1, n = step == 0 ? PROMPT : 1;
    status = logits_of(&cpu, first, n, expected);
    if (status == UMRT_OK) status = logits_of(&other, first, n, found);
    if (status == UMRT_OK) *largest = larger(*largest, difference(expected, found, cpu.vocab_size));
  }
  close_it(&cpu);
  close_it(&other);
  return status;
}

int main(int argc, char **argv) {
  int n_failed = 0, n_compared = 0;
  if (argc < 3) {
    fputs("usage: parity DEVICE MODEL...\n", stderr);
    return 2;
  }
  for (int i = 2; i < argc; i++) {
    double largest = 0;
    umrt_status status = compare(argv[1], argv[i], &largest);
    const char *result = status == UMRT_UNSUPPORTED               ? "skipped"
                         : status != UMRT_OK || largest > BOUND ? "failed"
                                                                  : "ok";
    const char *name = strrchr(argv[i], '/');
    n_compared += status == UMRT_OK;
    n_failed += strcmp(result, "failed") == 0;
    printf("{\"model\": ");
    print_text(name ? name + 1 : argv[i]);
    printf(", \"result\": \"%s\"", result);
    if (status == UMRT_OK) {
      isfinite(largest) ? printf(", \"difference\": %.2e", largest)
                        : printf(", \"difference\": null");
    } else {
      printf(", \"status\": \"%s\", \"message\": ", umrt_status_name(status));
      print_text(umrt_last_error());
    }
    puts("}");
    fflush(stdout);
  }
  fprintf(stderr, "parity: %d compared, %d failed, %d skipped\n", n_compared, n_failed,
          argc - 2 - n_compared - n_failed);
  return n_failed > 0 || n_compared == 0;
}

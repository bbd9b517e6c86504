/* plan MODEL [N_SEQ]
 *
 * Whether a model fits, for contexts of several lengths, without opening it. */

#include <stdio.h>
#include <stdlib.h>

#include "umrt.h"

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

static umrt_status estimate(const char *path, uint32_t n_ctx, uint32_t n_seq,
                            umrt_memory_estimate *found) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  params.n_seq = n_seq;
  return umrt_model_estimate(path, NULL, &params, found);
}

static umrt_status show(const char *path, uint32_t n_seq) {
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_memory_estimate found = UMRT_MEMORY_ESTIMATE_INIT;
  umrt_status status = umrt_model_inspect(path, &info);
  if (status == UMRT_OK) status = estimate(path, 0, n_seq, &found);
  if (status != UMRT_OK) return status;

  printf("%s, %.1f million parameters, trained for %u tokens\n", info.model_type,
         (double)info.n_parameters / 1e6, info.max_context);
  printf("%.0f MiB usable by models: %s\n\n", mib(found.usable_bytes), found.usable_reason);
  printf("%9s %12s %12s %12s %12s\n", "n_ctx", "weights", "KV cache", "the rest", "total, MiB");
  for (uint32_t n_ctx = 1024; status == UMRT_OK && n_ctx <= 131072; n_ctx *= 2) {
    status = estimate(path, n_ctx, n_seq, &found);
    if (status != UMRT_OK) break;
    const uint64_t weights = found.weights_mapped_bytes + found.weights_copied_bytes;
    printf("%9u %12.1f %12.1f %12.1f %12.1f  ", n_ctx, mib(weights), mib(found.kv_bytes),
           mib(found.total_bytes - weights - found.kv_bytes), mib(found.total_bytes));
    if (!found.fits) printf("%.1f MiB too much", mib(found.missing_bytes));
    else printf("fits");
    puts(n_ctx > info.max_context ? ", longer than trained for" : "");
  }
  return status;
}

int main(int argc, char **argv) {
  const long n_seq = argc > 2 ? strtol(argv[2], NULL, 10) : 1;
  if (argc < 2 || n_seq < 1 || n_seq > 1024) {
    fputs("usage: plan MODEL [N_SEQ]\n", stderr);
    return 2;
  }
  const umrt_status status = show(argv[1], (uint32_t)n_seq);
  if (status != UMRT_OK) fprintf(stderr, "%s\n", umrt_last_error());
  return status != UMRT_OK;
}

/* two_models MODEL_A MODEL_B [PROMPT]
 *
 * Two models take turns under a budget that holds the weights of only one. Nothing
 * is loaded or unloaded: both stay open, and whose turn it is gets the memory. */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <time.h>

#include "umrt.h"

enum { N_MODELS = 2, N_TURNS = 4, N_CTX = 512 };

typedef struct {
  const char *path;
  umrt_model *model;
  umrt_ctx *ctx;
  umrt_memory_estimate needs;
} participant;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

static umrt_ctx_params ctx_params(void) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = N_CTX;
  return params;
}

/* The larger model's weights, and what each needs for itself. */
static umrt_status set_budget(participant *all) {
  umrt_memory_budget budget = UMRT_MEMORY_BUDGET_INIT;
  uint64_t largest_weights = 0;
  for (int i = 0; i < N_MODELS; i++) {
    umrt_memory_estimate *needs = &all[i].needs;
    const umrt_ctx_params params = ctx_params();
    const umrt_status status = umrt_model_estimate(all[i].path, NULL, &params, needs);
    if (status != UMRT_OK) return status;
    budget.bytes += needs->total_bytes - needs->weights_mapped_bytes;
    if (needs->weights_mapped_bytes > largest_weights)
      largest_weights = needs->weights_mapped_bytes;
  }
  budget.bytes += largest_weights;
  printf("budget: %.1f MiB, of which weights: %.1f MiB\n", mib(budget.bytes),
         mib(largest_weights));
  return umrt_memory_budget_set(&budget);
}

static umrt_status open_both(participant *all) {
  for (int i = 0; i < N_MODELS; i++) {
    const umrt_ctx_params params = ctx_params();
    umrt_status status = umrt_model_open(all[i].path, NULL, &all[i].model);
    if (status == UMRT_OK) status = umrt_ctx_new(all[i].model, &params, &all[i].ctx);
    if (status != UMRT_OK) return status;
  }
  return UMRT_OK;
}

static int32_t note_first_text(const char *text, size_t length, int32_t token, void *at_ms) {
  double *first = at_ms;
  (void)text, (void)length, (void)token;
  if (*first == 0) *first = now_ms();
  return 0;
}

static umrt_status take_turn(participant *p, const char *prompt) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  umrt_memory_budget_info budget = UMRT_MEMORY_BUDGET_INFO_INIT;
  double first_text_ms = 0;
  params.prompt = prompt;
  params.max_tokens = 32;
  const double begun_ms = now_ms();
  umrt_status status = umrt_seq_trim(p->ctx, 0, 0);
  if (status == UMRT_OK)
    status = umrt_generate(p->ctx, &params, note_first_text, &first_text_ms, NULL, &result);
  if (status == UMRT_OK) status = umrt_memory_budget_get(&budget);
  if (status != UMRT_OK) return status;
  printf("%s: first text after %.1f ms, %u tokens, %.1f of %.1f MiB taken\n", p->path,
         first_text_ms > 0 ? first_text_ms - begun_ms : 0.0, result.n_tokens,
         mib(budget.taken_bytes), mib(budget.usable_bytes));
  return UMRT_OK;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fputs("usage: two_models MODEL_A MODEL_B [PROMPT]\n", stderr);
    return 2;
  }
  const char *prompt = argc > 3 ? argv[3] : "Once upon a time";
  participant all[N_MODELS] = {{.path = argv[1], .needs = UMRT_MEMORY_ESTIMATE_INIT},
                               {.path = argv[2], .needs = UMRT_MEMORY_ESTIMATE_INIT}};
  umrt_status status = set_budget(all);
  if (status == UMRT_OK) status = open_both(all);
  for (int turn = 0; status == UMRT_OK && turn < N_TURNS; turn++)
    status = take_turn(&all[turn % N_MODELS], prompt);
  if (status != UMRT_OK) fprintf(stderr, "%s\n", umrt_last_error());
  for (int i = 0; i < N_MODELS; i++) {
    umrt_ctx_free(all[i].ctx);
    umrt_model_free(all[i].model);
  }
  return status != UMRT_OK;
}

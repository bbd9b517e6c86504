/* LoRA adapters: opening, setting, counting, and what goes wrong. */

#include "fixtures.h"

#include <math.h>

#define ADAPTERS "tests/fixtures/adapters/"

enum { VOCAB = 128 };

static umrt_model *model;
static token_list prompt;

static umrt_adapter *open_adapter(const char *path) {
  umrt_adapter *adapter = NULL;
  REQUIRE(CHECK_OK(umrt_adapter_open(model, path, &adapter)));
  return adapter;
}

static void logits_of_prompt(umrt_ctx *ctx, float *logits) {
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  CHECK_OK(umrt_logits(ctx, 0, logits, VOCAB, NULL));
}

static int are_equal(const float *a, const float *b) { return memcmp(a, b, VOCAB * sizeof *a) == 0; }

static void adapters_are_swapped_between_evaluations(void) {
  float plain[VOCAB], first[VOCAB], both[VOCAB], found[VOCAB];
  const float ones[] = {1, 1}, first_only[] = {1, 0};
  umrt_ctx *ctx = new_context(model, 0), *other = new_context(model, 0);
  const umrt_adapter *const adapters[] = {open_adapter(ADAPTERS "peft-attention"),
                                          open_adapter(ADAPTERS "mlx-float")};
  logits_of_prompt(ctx, plain);
  CHECK_OK(umrt_ctx_set_adapters(ctx, adapters, NULL, 1));
  logits_of_prompt(ctx, first);
  CHECK(!are_equal(first, plain));
  CHECK_OK(umrt_ctx_set_adapters(ctx, adapters, ones, 2));
  logits_of_prompt(ctx, both);
  CHECK(!are_equal(both, first));
  CHECK_OK(umrt_ctx_set_adapters(ctx, adapters, first_only, 2));
  logits_of_prompt(ctx, found);
  CHECK(are_equal(found, first));
  logits_of_prompt(other, found);
  CHECK(are_equal(found, plain));
  CHECK_OK(umrt_ctx_set_adapters(ctx, NULL, NULL, 0));
  logits_of_prompt(ctx, found);
  CHECK(are_equal(found, plain));
  umrt_adapter_free((umrt_adapter *)adapters[0]);
  umrt_adapter_free((umrt_adapter *)adapters[1]);
  umrt_ctx_free(ctx);
  umrt_ctx_free(other);
}

static void an_adapter_is_counted_until_no_context_uses_it(void) {
  umrt_ctx *ctx = new_context(model, 0);
  CHECK_EQUAL(0, process_memory().adapters_bytes);
  umrt_adapter *adapter = open_adapter(ADAPTERS "peft-attention");
  const umrt_adapter *const adapters[] = {adapter};
  const uint64_t bytes = process_memory().adapters_bytes;
  CHECK(bytes > 0);
  CHECK_OK(umrt_ctx_set_adapters(ctx, adapters, NULL, 1));
  umrt_adapter_free(adapter);
  CHECK_EQUAL(bytes, process_memory().adapters_bytes);
  umrt_ctx_free(ctx);
  CHECK_EQUAL(0, process_memory().adapters_bytes);
}

static void what_is_wrong_is_said_and_changes_nothing(void) {
  float before[VOCAB], after[VOCAB];
  const float infinite[] = {INFINITY};
  umrt_ctx *ctx = new_context(model, 0);
  umrt_adapter *adapter = open_adapter(ADAPTERS "mlx-float"), *none = adapter;
  const umrt_adapter *const adapters[] = {adapter, NULL};
  CHECK_OK(umrt_ctx_set_adapters(ctx, adapters, NULL, 1));
  logits_of_prompt(ctx, before);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "adapter handle",
              umrt_ctx_set_adapters(ctx, adapters, NULL, 2));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "scale", umrt_ctx_set_adapters(ctx, adapters, infinite, 1));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "adapters", umrt_ctx_set_adapters(ctx, NULL, NULL, 1));
  CHECK_FAILS(UMRT_FORMAT, "another model",
              umrt_adapter_open(model, ADAPTERS "peft-fused", &none));
  CHECK(none == NULL);
  CHECK_FAILS(UMRT_NOT_FOUND, "adapter_config.json", umrt_adapter_open(model, TOKEN_MODEL, &none));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "path", umrt_adapter_open(model, NULL, &none));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "model", umrt_adapter_open(NULL, TOKEN_MODEL, &none));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_adapter_open(model, TOKEN_MODEL, NULL));
  umrt_adapter_free(NULL);
  logits_of_prompt(ctx, after);
  CHECK(are_equal(before, after));
  umrt_adapter_free(adapter);
  umrt_ctx_free(ctx);
}

int main(void) {
  prompt = read_ids(TOKEN_MODEL "/fixture.json", "prompt_ids");
  model = open_model(TOKEN_MODEL);
  adapters_are_swapped_between_evaluations();
  an_adapter_is_counted_until_no_context_uses_it();
  what_is_wrong_is_said_and_changes_nothing();
  umrt_model_free(model);
  return check_summary(__FILE__);
}

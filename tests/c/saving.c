/* Sequences that are saved to a file or into memory, and loaded again. */

#define _XOPEN_SOURCE 700

#include <unistd.h>

#include "fixtures.h"

enum { N_PROMPT = 5 };
static const int32_t prompt[N_PROMPT] = {3, 1, 4, 1, 5};

static float logit_of_next(umrt_ctx *ctx) {
  const int32_t next = 9;
  const float *logits = NULL;
  REQUIRE(CHECK_OK(eval_tokens(ctx, &next, 1)));
  REQUIRE(CHECK_OK(umrt_logits_view(ctx, 0, &logits)));
  return logits[0];
}

static void a_saved_sequence_goes_on(const umrt_model *model) {
  char path[] = "/tmp/umrt-saving-XXXXXX";
  const int file = mkstemp(path);
  REQUIRE(CHECK(file >= 0));
  close(file);
  umrt_ctx *ctx = new_context(model, 0);
  CHECK_OK(eval_tokens(ctx, prompt, N_PROMPT));
  CHECK_OK(umrt_seq_save(ctx, 0, path));
  const float expected = logit_of_next(ctx);

  umrt_ctx *other = new_context(model, 64);
  CHECK_OK(umrt_seq_load(other, 0, path));
  CHECK_EQUAL(N_PROMPT, length_of(other));
  int32_t tokens[N_PROMPT];
  size_t needed = 0;
  CHECK_STATUS(UMRT_NO_SPACE, umrt_seq_tokens(other, 0, tokens, 1, &needed));
  CHECK_EQUAL(N_PROMPT, needed);
  CHECK_OK(umrt_seq_tokens(other, 0, tokens, N_PROMPT, NULL));
  CHECK(memcmp(prompt, tokens, sizeof prompt) == 0);
  CHECK(logit_of_next(other) == expected);

  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_save(ctx, 1, path));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_save(ctx, 0, NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_load(ctx, 1, path));
  CHECK_STATUS(UMRT_NOT_FOUND, umrt_seq_load(ctx, 0, "/nowhere/at/all"));
  CHECK_STATUS(UMRT_FORMAT, umrt_seq_load(ctx, 0, TOKEN_MODEL "/config.json"));
  CHECK_EQUAL(N_PROMPT + 1, length_of(ctx));

  umrt_model *wrong = open_model(CHAT_MODEL);
  umrt_ctx *foreign = new_context(wrong, 0);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_load(foreign, 0, path));
  CHECK_EQUAL(0, length_of(foreign));
  umrt_ctx_free(foreign);
  umrt_model_free(wrong);
  umrt_ctx_free(other);
  umrt_ctx_free(ctx);
  remove(path);
}

static void a_sequence_fits_into_a_buffer(const umrt_model *model) {
  umrt_ctx *ctx = new_context(model, 0);
  CHECK_OK(eval_tokens(ctx, prompt, N_PROMPT));
  size_t needed = 0;
  CHECK_STATUS(UMRT_NO_SPACE, umrt_seq_save_to_buffer(ctx, 0, NULL, 0, &needed));
  uint8_t *saved = malloc(needed);
  REQUIRE(CHECK(saved != NULL));
  CHECK_OK(umrt_seq_save_to_buffer(ctx, 0, saved, needed, NULL));
  const float expected = logit_of_next(ctx);

  CHECK_STATUS(UMRT_FORMAT, umrt_seq_load_from_buffer(ctx, 0, saved, needed - 1));
  CHECK_EQUAL(N_PROMPT + 1, length_of(ctx));
  /* The small context has no room for what it holds and what it is to hold. */
  CHECK_FAILS(UMRT_OVER_BUDGET, "trim", umrt_seq_load_from_buffer(ctx, 0, saved, needed));
  CHECK_EQUAL(N_PROMPT + 1, length_of(ctx));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  saved[needed / 2] ^= 1;
  CHECK_STATUS(UMRT_FORMAT, umrt_seq_load_from_buffer(ctx, 0, saved, needed));
  saved[needed / 2] ^= 1;
  CHECK_OK(umrt_seq_load_from_buffer(ctx, 0, saved, needed));
  CHECK_EQUAL(N_PROMPT, length_of(ctx));
  CHECK(logit_of_next(ctx) == expected);
  free(saved);
  umrt_ctx_free(ctx);
}

static void a_sequence_goes_through_a_file_of_mlx_lm(const umrt_model *model) {
  char path[] = "/tmp/umrt-saving-XXXXXX";
  const int file = mkstemp(path);
  REQUIRE(CHECK(file >= 0));
  close(file);
  umrt_ctx *ctx = new_context(model, 0);
  umrt_ctx *other = new_context(model, 0);
  CHECK_OK(eval_tokens(ctx, prompt, N_PROMPT));
  CHECK_OK(umrt_seq_export_mlx(ctx, 0, path));
  const float expected = logit_of_next(ctx);

  CHECK_OK(umrt_seq_load(other, 0, path));
  CHECK(logit_of_next(other) == expected);
  CHECK_OK(umrt_seq_trim(other, 0, 0));
  CHECK_OK(umrt_seq_import_mlx(other, 0, path, prompt, N_PROMPT));
  CHECK_EQUAL(N_PROMPT, length_of(other));
  CHECK(logit_of_next(other) == expected);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "5 tokens",
              umrt_seq_import_mlx(other, 0, path, prompt, N_PROMPT - 1));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_import_mlx(other, 0, NULL, NULL, 0));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_import_mlx(other, 0, path, NULL, 1));
  umrt_ctx_free(other);
  umrt_ctx_free(ctx);
  unlink(path);
}

int main(void) {
  umrt_model *model = open_model(TOKEN_MODEL);
  a_sequence_goes_through_a_file_of_mlx_lm(model);
  a_saved_sequence_goes_on(model);
  a_sequence_fits_into_a_buffer(model);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

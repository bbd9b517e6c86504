/* Guesses change how fast tokens come, and not which. */

#include "fixtures.h"

#define TALES "examples/models/umrt-tales-4bit"
#define DRAFT "examples/models/umrt-tales-draft-4bit"

static umrt_generate_params story(void) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "Once upon a time there was a brave fox named Ruby.";
  params.max_tokens = 150;
  params.flags = UMRT_GENERATE_IGNORE_END;
  return params;
}

static umrt_generate_result tell(umrt_ctx *ctx, const umrt_generate_params *params,
                                 collected *out) {
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  *out = (collected){.n_calls = 0};
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_generate(ctx, params, collect, out, NULL, &result));
  return result;
}

static void the_text_and_its_pieces_are_the_same(umrt_ctx *ctx, umrt_ctx *draft) {
  collected expected, found;
  umrt_generate_params params = story();
  umrt_perf before = UMRT_PERF_INIT, after = UMRT_PERF_INIT;
  CHECK_EQUAL(0, tell(ctx, &params, &expected).n_drafted);
  params.draft = draft;
  for (params.ngram = 0; params.ngram <= 4; params.ngram += 2) {
    CHECK_OK(umrt_ctx_perf(ctx, &before));
    const umrt_generate_result result = tell(ctx, &params, &found);
    CHECK_OK(umrt_ctx_perf(ctx, &after));
    CHECK_TEXT(expected.text, found.text);
    CHECK_EQUAL(expected.n_calls, found.n_calls);
    CHECK_EQUAL(150, result.n_tokens);
    CHECK(result.n_accepted > 40 && result.n_accepted <= result.n_drafted);
    CHECK_EQUAL(result.n_drafted, after.n_drafted - before.n_drafted);
    CHECK_EQUAL(result.n_accepted, after.n_accepted - before.n_accepted);
    CHECK_EQUAL(149, after.n_decode_tokens - before.n_decode_tokens);
    CHECK(after.n_evals - before.n_evals < 110);
  }
}

static void what_does_not_fit_is_refused(umrt_ctx *ctx, umrt_ctx *draft) {
  umrt_generate_params params = story();
#define REFUSED(status, part) \
  CHECK_FAILS(status, part, umrt_generate(ctx, &params, NULL, NULL, NULL, NULL))
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  params.ngram = 1;
  REFUSED(UMRT_INVALID_ARGUMENT, "ngram is 1");
  params.ngram = 0;
  params.draft = ctx;
  REFUSED(UMRT_INVALID_ARGUMENT, "the context itself");
  params.draft = draft;
  params.n_draft = UMRT_MAX_DRAFT + 1;
  REFUSED(UMRT_INVALID_ARGUMENT, "at most 11");
  params.n_draft = 0;

  umrt_model *other = open_model(CHAT_MODEL), *without = open_model(TOKEN_MODEL);
  umrt_ctx *others = new_context(other, 0), *tokenless = new_context(without, 0);
  params.draft = others;
  REFUSED(UMRT_INVALID_ARGUMENT, "another vocabulary: token");
  params.draft = tokenless;
  REFUSED(UMRT_NOT_FOUND, "the draft model");
  umrt_ctx_free(others);
  umrt_ctx_free(tokenless);
  umrt_model_free(other);
  umrt_model_free(without);
#undef REFUSED
  CHECK_EQUAL(0, length_of(ctx));
}

typedef struct {
  umrt_ctx *draft;
  int n_calls;
} inside;

static int32_t use_the_draft(const char *text, size_t length, int32_t token, void *userdata) {
  uint32_t n_tokens;
  inside *in = userdata;
  (void)text, (void)length, (void)token;
  CHECK_FAILS(UMRT_BUSY, "context", umrt_seq_length(in->draft, 0, &n_tokens));
  return ++in->n_calls == 3;
}

static void the_draft_is_in_use_meanwhile(umrt_ctx *ctx, umrt_ctx *draft) {
  umrt_generate_params params = story();
  inside in = {.draft = draft};
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  uint32_t n_prompt;
  params.draft = draft;
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_generate(ctx, &params, use_the_draft, &in, NULL, &result));
  CHECK_EQUAL(UMRT_STOP_CALLBACK, result.stop_reason);
  n_prompt = result.n_prompt_tokens;
  CHECK_EQUAL(n_prompt + result.n_tokens - 1, length_of(ctx));
}

int main(void) {
  umrt_model *model = open_model(TALES), *small = open_model(DRAFT);
  umrt_ctx *ctx = new_context(model, 0), *draft = new_context(small, 0);
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.activations = UMRT_ACTIVATIONS_EIGHT_BITS;
  umrt_ctx *coarse = NULL;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &coarse)));
  the_text_and_its_pieces_are_the_same(ctx, draft);
  the_text_and_its_pieces_are_the_same(coarse, draft);
  umrt_ctx_free(coarse);
  what_does_not_fit_is_refused(ctx, draft);
  the_draft_is_in_use_meanwhile(ctx, draft);
  umrt_ctx_free(draft);
  umrt_ctx_free(ctx);
  umrt_model_free(small);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

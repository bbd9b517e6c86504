/* Vectors of texts, log-probabilities, and the most likely tokens. */

#include <math.h>

#include "fixtures.h"

enum { HIDDEN_SIZE = 64, VOCAB_SIZE = 128 };

static const int32_t ids[] = {5, 9, 17, 3, 80, 41};

static umrt_embed_params of_tokens(const size_t *lengths, size_t n_texts) {
  umrt_embed_params params = UMRT_EMBED_PARAMS_INIT;
  params.tokens = ids;
  params.lengths = lengths;
  params.n_texts = n_texts;
  return params;
}

static void texts_become_vectors(umrt_ctx *ctx) {
  const size_t both[] = {2, 4};
  float alone[HIDDEN_SIZE], together[2 * HIDDEN_SIZE];
  size_t needed = 0;
  umrt_embed_params params = of_tokens(both, 2);
  CHECK_FAILS(UMRT_NO_SPACE, "128 are needed", umrt_embed(ctx, &params, NULL, NULL, 0, &needed));
  CHECK_EQUAL(2 * HIDDEN_SIZE, needed);
  CHECK_OK(umrt_embed(ctx, &params, NULL, together, 2 * HIDDEN_SIZE, NULL));
  params.n_texts = 1;
  CHECK_OK(umrt_embed(ctx, &params, NULL, alone, HIDDEN_SIZE, &needed));
  CHECK_EQUAL(HIDDEN_SIZE, needed);
  for (int i = 0; i < HIDDEN_SIZE; i++) CHECK(fabsf(alone[i] - together[i]) < 1e-4f);
  CHECK_EQUAL(0, length_of(ctx));

  double squares = 0;
  params.pooling = UMRT_POOLING_LAST;
  params.flags = UMRT_EMBED_NORMALIZE;
  CHECK_OK(umrt_embed(ctx, &params, NULL, alone, HIDDEN_SIZE, NULL));
  for (int i = 0; i < HIDDEN_SIZE; i++) squares += (double)alone[i] * alone[i];
  CHECK(fabs(squares - 1) < 1e-5);
  params.n_texts = 0;
  CHECK_OK(umrt_embed(ctx, &params, NULL, NULL, 0, &needed));
  CHECK_EQUAL(0, needed);
}

static void text_is_embedded_as_its_tokens(void) {
  umrt_model *chat = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(chat, 0);
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  int32_t tokens[32];
  size_t n_tokens;
  float vectors[2][512];
  CHECK_OK(umrt_model_info_get(chat, &info));
  REQUIRE(CHECK(info.hidden_size <= 512));
  CHECK_OK(umrt_tokenize(chat, "Hello", 5, UMRT_TOKENIZE_ADD_SPECIAL, tokens, 32, &n_tokens));
  umrt_embed_params params = UMRT_EMBED_PARAMS_INIT;
  params.texts = (const char *const[]){"Hello"};
  params.n_texts = 1;
  CHECK_OK(umrt_embed(ctx, &params, NULL, vectors[0], 512, NULL));
  params.texts = NULL;
  params.tokens = tokens;
  params.lengths = &n_tokens;
  CHECK_OK(umrt_embed(ctx, &params, NULL, vectors[1], 512, NULL));
  CHECK(memcmp(vectors[0], vectors[1], info.hidden_size * sizeof(float)) == 0);
  params.tokens = NULL;
  params.texts = (const char *const[]){"\xff"};
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "UTF-8", umrt_embed(ctx, &params, NULL, vectors[0], 512, NULL));
  umrt_ctx_free(ctx);
  umrt_model_free(chat);
}

static void what_cannot_be_embedded_is_refused(umrt_ctx *ctx, umrt_ctx *small) {
  float vectors[2 * HIDDEN_SIZE];
  const size_t n = 2 * HIDDEN_SIZE;
  const size_t lengths[] = {6, 0};
  umrt_embed_params params = of_tokens(lengths, 1);
#define REFUSED(status, part) \
  CHECK_FAILS(status, part, umrt_embed(ctx, &params, NULL, vectors, n, NULL))
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_embed(NULL, &params, NULL, vectors, n, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "exactly one", umrt_embed(ctx, NULL, NULL, vectors, n, NULL));
  params.n_texts = 2;
  REFUSED(UMRT_INVALID_ARGUMENT, "text 1");
  params.n_texts = 1;
  params.pooling = 3;
  REFUSED(UMRT_INVALID_ARGUMENT, "pooling is 3");
  params.pooling = 0;
  params.flags = 2;
  REFUSED(UMRT_UNSUPPORTED, "flags");
  params.flags = 0;
  params.reserved = 1;
  REFUSED(UMRT_UNSUPPORTED, "reserved");
  params.reserved = 0;
  params.lengths = NULL;
  REFUSED(UMRT_INVALID_ARGUMENT, "lengths is NULL");
  params.lengths = lengths;
  params.tokens = NULL;
  REFUSED(UMRT_INVALID_ARGUMENT, "exactly one");
  params.texts = (const char *const[]){"a"};
  REFUSED(UMRT_NOT_FOUND, "tokenizer");
  params.tokens = ids;
  REFUSED(UMRT_INVALID_ARGUMENT, "exactly one");
  params.texts = NULL;
  params.struct_size = 0;
  REFUSED(UMRT_INVALID_ARGUMENT, "_INIT");
#undef REFUSED
  params.struct_size = sizeof params;
  CHECK_FAILS(UMRT_NO_SPACE, "6 tokens", umrt_embed(small, &params, NULL, vectors, n, NULL));
  params.lengths = (const size_t[]){3};
  CHECK_OK(eval_tokens(small, ids, 1));
  CHECK_FAILS(UMRT_NO_SPACE, "without tokens", umrt_embed(small, &params, NULL, vectors, n, NULL));
  CHECK_OK(umrt_seq_trim(small, 0, 0));
}

static umrt_score_params score_of(const size_t *lengths, size_t n) {
  umrt_score_params params = UMRT_SCORE_PARAMS_INIT;
  params.prompt = ids;
  params.n_prompt = 3;
  params.continuations = ids + 3;
  params.lengths = lengths;
  params.n_continuations = n;
  return params;
}

static void scores_agree_with_the_most_likely_tokens(umrt_ctx *ctx) {
  const size_t lengths[] = {1, 2};
  float scores[3], logprobs[VOCAB_SIZE];
  int32_t tokens[VOCAB_SIZE];
  size_t needed = 0;
  const umrt_score_params params = score_of(lengths, 2);
  CHECK_FAILS(UMRT_NO_SPACE, "3 are needed", umrt_score(ctx, &params, NULL, NULL, 0, &needed));
  CHECK_EQUAL(3, needed);
  CHECK_OK(umrt_score(ctx, &params, NULL, scores, 3, NULL));
  CHECK_EQUAL(0, length_of(ctx));

  CHECK_OK(eval_tokens(ctx, ids, 3));
  CHECK_OK(umrt_top_logprobs(ctx, 0, VOCAB_SIZE, tokens, logprobs));
  double sum = 0;
  for (int i = 0; i < VOCAB_SIZE; i++) {
    sum += exp(logprobs[i]);
    CHECK(i == 0 || logprobs[i - 1] >= logprobs[i]);
    if (tokens[i] == ids[3]) CHECK(fabsf(logprobs[i] - scores[0]) < 1e-4f);
    if (tokens[i] == ids[4]) CHECK(fabsf(logprobs[i] - scores[1]) < 1e-4f);
  }
  CHECK(fabs(sum - 1) < 1e-5);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "k is 0", umrt_top_logprobs(ctx, 0, 0, tokens, logprobs));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "to 128",
              umrt_top_logprobs(ctx, 0, VOCAB_SIZE + 1, tokens, logprobs));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "row 1", umrt_top_logprobs(ctx, 1, 1, tokens, logprobs));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_top_logprobs(ctx, 0, 1, NULL, logprobs));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_top_logprobs(ctx, 0, 1, tokens, NULL));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
}

static void what_cannot_be_scored_is_refused(umrt_ctx *ctx, umrt_ctx *small) {
  const size_t lengths[] = {3, 0};
  float scores[8];
  umrt_cancel *cancel;
  umrt_score_params params = score_of(lengths, 1);
#define REFUSED(part) \
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, part, umrt_score(ctx, &params, NULL, scores, 8, NULL))
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_score(NULL, &params, NULL, scores, 8, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "no tokens", umrt_score(ctx, NULL, NULL, scores, 8, NULL));
  params.n_continuations = 0;
  REFUSED("no continuation");
  params.n_continuations = 2;
  REFUSED("continuation 1");
  params.n_continuations = 1;
  params.n_prompt = 0;
  REFUSED("prompt has no tokens");
  params.n_prompt = 3;
  params.seq = 1;
  REFUSED("sequence 1");
  params.seq = 0;
  params.lengths = NULL;
  REFUSED("lengths is NULL");
  params.lengths = lengths;
  params.continuations = NULL;
  REFUSED("continuations is NULL");
  params.continuations = (const int32_t[]){1, 2, 128};
  REFUSED("token id 128");
#undef REFUSED
  params = score_of(lengths, 1);
  CHECK_FAILS(UMRT_NO_SPACE, "5 tokens", umrt_score(small, &params, NULL, scores, 8, NULL));
  CHECK_OK(umrt_cancel_new(&cancel));
  umrt_cancel_trigger(cancel);
  CHECK_STATUS(UMRT_CANCELLED, umrt_score(ctx, &params, cancel, scores, 8, NULL));
  CHECK_EQUAL(0, length_of(ctx));
  umrt_cancel_free(cancel);
}

int main(void) {
  umrt_model *model = open_model(TOKEN_MODEL);
  umrt_ctx *ctx = new_context(model, 0), *small = new_context(model, 4);
  texts_become_vectors(ctx);
  text_is_embedded_as_its_tokens();
  what_cannot_be_embedded_is_refused(ctx, small);
  scores_agree_with_the_most_likely_tokens(ctx);
  what_cannot_be_scored_is_refused(ctx, small);
  umrt_ctx_free(small);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

/* What a model makes of a text: embed_and_score MODEL TEXT
 *
 * Prints how near the text is to others, by the angle between their vectors, and how
 * likely its tokens are, one after the other. */

#include <stdio.h>
#include <stdlib.h>

#include "umrt.h"

enum { N_TEXTS = 3, MAX_TOKENS = 256 };

/* Vectors of length 1: their product is the cosine of the angle between them. */
static umrt_status print_similarities(umrt_ctx *ctx, const char *text) {
  const char *const texts[N_TEXTS] = {text, "Once there was a little dog.", "17 + 4 = 21"};
  umrt_embed_params params = UMRT_EMBED_PARAMS_INIT;
  params.texts = texts;
  params.n_texts = N_TEXTS;
  params.flags = UMRT_EMBED_NORMALIZE;

  size_t needed = 0;
  umrt_embed(ctx, &params, NULL, NULL, 0, &needed);
  float *vectors = calloc(needed, sizeof *vectors);
  const umrt_status status = umrt_embed(ctx, &params, NULL, vectors, needed, NULL);
  const size_t n_floats = needed / N_TEXTS;
  for (size_t other = 1; status == UMRT_OK && other < N_TEXTS; other++) {
    double cosine = 0;
    for (size_t i = 0; i < n_floats; i++) cosine += vectors[i] * vectors[other * n_floats + i];
    printf("%6.3f to \"%s\"\n", cosine, texts[other]);
  }
  free(vectors);
  return status;
}

static umrt_status print_likelihoods(const umrt_model *model, umrt_ctx *ctx, const char *text,
                                     size_t length) {
  int32_t tokens[MAX_TOKENS];
  float logprobs[MAX_TOKENS];
  size_t n_tokens = 0;
  umrt_status status = umrt_tokenize(model, text, length, UMRT_TOKENIZE_ADD_SPECIAL, tokens,
                                     MAX_TOKENS, &n_tokens);
  if (status != UMRT_OK || n_tokens < 2) return status;

  /* The first token is the prompt, all others continue it. */
  const size_t n_scored = n_tokens - 1;
  umrt_score_params params = UMRT_SCORE_PARAMS_INIT;
  params.prompt = tokens;
  params.n_prompt = 1;
  params.continuations = tokens + 1;
  params.lengths = &n_scored;
  params.n_continuations = 1;
  status = umrt_score(ctx, &params, NULL, logprobs, MAX_TOKENS, NULL);
  for (size_t i = 0; status == UMRT_OK && i < n_scored; i++) {
    char piece[64] = "";
    umrt_detokenize(model, &tokens[i + 1], 1, 0, piece, sizeof piece, NULL);
    printf("%8.3f %s\n", logprobs[i], piece);
  }
  return status;
}

int main(int argc, char **argv) {
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  const char *text = argc > 2 ? argv[2] : "Once upon a time there was a small cat.";
  size_t length = 0;
  while (text[length] != '\0') length++;

  const int failed = umrt_model_open(argc > 1 ? argv[1] : ".", NULL, &model) != UMRT_OK ||
                     umrt_ctx_new(model, NULL, &ctx) != UMRT_OK ||
                     print_similarities(ctx, text) != UMRT_OK ||
                     print_likelihoods(model, ctx, text, length) != UMRT_OK;
  if (failed) fprintf(stderr, "%s\n", umrt_last_error());
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return failed;
}

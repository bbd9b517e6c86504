/* The models in tests/fixtures, and short ways to use them. The tests run in
 * the root of the repository. */

#ifndef FIXTURES_H
#define FIXTURES_H

#include "check.h"

#define MODELS "tests/fixtures/models/"
/* 2 layers, 320 tokens, float16, with a tokenizer and a chat template. */
#define CHAT_MODEL MODELS "llama3-chat-f16"
/* 2 layers, 128 tokens, float32, without a tokenizer. */
#define TOKEN_MODEL MODELS "llama3-f32"

#define MAX_IDS 256

typedef struct {
  int32_t ids[MAX_IDS];
  size_t n;
} token_list;

static inline umrt_model *open_model(const char *path) {
  umrt_model *model = NULL;
  REQUIRE(CHECK_OK(umrt_model_open(path, NULL, &model)));
  return model;
}

/* `n_ctx` 0 is the default. */
static inline umrt_ctx *new_context(const umrt_model *model, uint32_t n_ctx) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static inline umrt_sampler *new_sampler(float temperature, uint64_t seed) {
  umrt_sampler *sampler = NULL;
  umrt_sampler_params params = UMRT_SAMPLER_PARAMS_INIT;
  params.temperature = temperature;
  params.seed = seed;
  REQUIRE(CHECK_OK(umrt_sampler_new(&params, &sampler)));
  return sampler;
}

static inline umrt_status eval_tokens(umrt_ctx *ctx, const int32_t *tokens, size_t n) {
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = tokens;
  batch.n_tokens = (uint32_t)n;
  return umrt_eval(ctx, &batch, NULL, NULL);
}

static inline uint32_t length_of(const umrt_ctx *ctx) {
  uint32_t n_tokens = UINT32_MAX;
  CHECK_OK(umrt_seq_length(ctx, 0, &n_tokens));
  return n_tokens;
}

static inline umrt_memory_info process_memory(void) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(umrt_memory_stats(&memory));
  return memory;
}

/* The file's content with a NUL behind it; free() it. */
static inline char *read_file(const char *path, size_t *length) {
  FILE *file = fopen(path, "rb");
  REQUIRE(CHECK(file != NULL));
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  char *content = calloc(*length + 1, 1);
  REQUIRE(CHECK(content != NULL && fread(content, 1, *length, file) == *length));
  fclose(file);
  return content;
}

/* The array of integers under a key of a fixture's JSON file. */
static inline token_list read_ids(const char *path, const char *key) {
  size_t length;
  token_list list = {.n = 0};
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\": [", key);
  char *json = read_file(path, &length);
  char *at = strstr(json, quoted);
  REQUIRE(CHECK(at != NULL));
  for (at += strlen(quoted); *at != ']' && list.n < MAX_IDS; at += strspn(at, ", "))
    list.ids[list.n++] = (int32_t)strtol(at, &at, 10);
  free(json);
  REQUIRE(CHECK(list.n > 0));
  return list;
}

/* What a generation handed over, for generate's callback. */
typedef struct {
  char text[4096];
  size_t length;
  int n_calls;
} collected;

static inline int32_t collect(const char *text, size_t length, int32_t token, void *userdata) {
  collected *into = userdata;
  (void)token;
  into->n_calls++;
  if (into->length + length < sizeof into->text) {
    memcpy(into->text + into->length, text, length + 1);
    into->length += length;
  }
  return 0;
}

#endif

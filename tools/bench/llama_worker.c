/* The worker (worker.h) that runs llama.cpp with its defaults: flash attention as it chooses, keys
 * and values in 16 bits, weights repacked as it likes. */

#define _POSIX_C_SOURCE 199309L

#include <llama.h>

#include "worker.h"

static struct llama_model *model;
static struct llama_context *ctx;
static int32_t sequences;

static void be_silent(enum ggml_log_level level, const char *text, void *data) {
  (void)level, (void)text, (void)data;
}

static void engine_open(const char *path) {
  struct llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  llama_log_set(be_silent, NULL);
  llama_backend_init();
  model = llama_model_load_from_file(path, params);
  if (!model) fail("llama.cpp cannot open %s", path);
}

static void engine_new_context(uint32_t n_ctx, uint32_t n_seq, int32_t n_threads) {
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = n_ctx * n_seq;
  params.n_seq_max = n_seq;
  params.n_batch = params.n_ubatch = CHUNK;
  params.n_threads = params.n_threads_batch = n_threads;
  if (ctx) llama_free(ctx);
  ctx = llama_init_from_model(model, params);
  if (!ctx) fail("llama.cpp cannot make a context of %u tokens", params.n_ctx);
  sequences = (int32_t)n_seq;
}

static int32_t engine_vocab_size(void) {
  return llama_vocab_n_tokens(llama_model_get_vocab(model));
}

static void engine_eval(const int32_t *tokens, const int32_t *seq_ids, const uint8_t *want_logits,
                        int32_t n_tokens) {
  static llama_seq_id ids[MAX_SEQUENCES];
  static llama_seq_id *id_of_token[CHUNK];
  static int32_t one_each[CHUNK];
  static int8_t wanted[CHUNK];
  for (int32_t seq = 0; seq < sequences; seq++) ids[seq] = seq;
  for (int32_t i = 0; i < n_tokens; i++) {
    id_of_token[i] = &ids[seq_ids[i]];
    one_each[i] = 1;
    wanted[i] = (int8_t)want_logits[i];
  }
  struct llama_batch batch = {
      .n_tokens = n_tokens,
      .token = (llama_token *)tokens,
      .n_seq_id = one_each,
      .seq_id = id_of_token,
      .logits = wanted,
  };
  int32_t status = llama_decode(ctx, batch);
  if (status != 0) fail("llama_decode returned %d", (int)status);
  llama_synchronize(ctx);
}

/* A generation of `engine_many`. */
struct request {
  int32_t n_unread, n_generated, last_token;
  /* Where its logits are in the batch; -1: there are none. */
  int32_t row;
};

static int32_t most_likely(const float *logits) {
  int32_t best = 0;
  for (int32_t id = 1; id < engine_vocab_size(); id++)
    if (logits[id] > logits[best]) best = id;
  return best;
}

/* One batch, on the same schedule as umrt's: a token of every request that decodes, and of prompts,
 * in their order, what else fits. */
static int32_t fill_batch(struct request *requests, int32_t n_requests, int32_t n_tokens,
                          int32_t *tokens, int32_t *seq_ids, uint8_t *want_logits) {
  int32_t n = 0, n_decoding = 0;
  for (int32_t i = 0; i < n_requests; i++)
    n_decoding += requests[i].n_unread == 0 && requests[i].n_generated < n_tokens;
  int32_t left = CHUNK - n_decoding;
  for (int32_t i = 0; i < n_requests; i++) {
    struct request *one = &requests[i];
    one->row = -1;
    if (one->n_generated == n_tokens) continue;
    const int is_decoding = one->n_unread == 0;
    const int32_t share = is_decoding ? 1 : one->n_unread < left ? one->n_unread : left;
    if (share == 0) continue;
    for (int32_t k = 0; k < share; k++, n++) {
      tokens[n] = is_decoding ? one->last_token : next_token();
      seq_ids[n] = i;
      want_logits[n] = 0;
    }
    if (!is_decoding) one->n_unread -= share, left -= share;
    if (one->n_unread == 0) want_logits[n - 1] = 1, one->row = n - 1;
  }
  return n;
}

static void engine_many(int32_t n_requests, int32_t n_prompt, int32_t n_tokens) {
  struct request requests[MAX_SEQUENCES];
  int32_t tokens[CHUNK], seq_ids[CHUNK], n;
  uint8_t want_logits[CHUNK];
  const double start = seconds();
  for (int32_t i = 0; i < n_requests; i++) requests[i] = (struct request){.n_unread = n_prompt};
  while ((n = fill_batch(requests, n_requests, n_tokens, tokens, seq_ids, want_logits)) > 0) {
    engine_eval(tokens, seq_ids, want_logits, n);
    for (int32_t i = 0; i < n_requests; i++) {
      struct request *one = &requests[i];
      if (one->row < 0) continue;
      one->last_token = most_likely(llama_get_logits_ith(ctx, one->row));
      if (one->n_generated++ == 0) first_token_at[i] = seconds() - start;
      if (one->n_generated == n_tokens) llama_memory_seq_rm(llama_get_memory(ctx), i, -1, -1);
    }
  }
}

static void engine_fork(int32_t seq) {
  llama_memory_seq_rm(llama_get_memory(ctx), seq, -1, -1);
  llama_memory_seq_cp(llama_get_memory(ctx), 0, seq, -1, -1);
}

static void engine_save(const char *path) {
  if (llama_state_seq_save_file(ctx, path, 0, NULL, 0) == 0) fail("llama.cpp cannot write %s", path);
}

static void engine_load(const char *path) {
  size_t n_tokens;
  if (llama_state_seq_load_file(ctx, path, 0, NULL, 0, &n_tokens) == 0)
    fail("llama.cpp cannot read %s", path);
}

static void engine_trim(int32_t seq, uint32_t keep) {
  if (!llama_memory_seq_rm(llama_get_memory(ctx), seq, (llama_pos)keep, -1))
    fail("llama.cpp cannot shorten sequence %d", (int)seq);
}

static const float *engine_logits(void) {
  return llama_get_logits_ith(ctx, -1);
}

static void engine_close(void) {
  llama_free(ctx);
  llama_model_free(model);
  ctx = NULL;
  model = NULL;
}

static bool engine_obey(const char *line) {
  (void)line;
  return false;
}

static double engine_figure(const char *name) {
  fail("llama.cpp does not tell %s", name);
  return 0;
}

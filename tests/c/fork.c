/* A host forks. Before umrt's first thread that is as if umrt were not there;
 * afterwards the child, in which the threads are missing, gets a status from
 * whatever would need them, and nothing hangs. */

#include "fixtures.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOO_LONG_SECONDS = 60 };

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
} handles;

static const int32_t tokens[] = {299, 35, 10, 38};

/* Runs `body` in a child that ends as a program does, and checks how it went. */
static void in_child(void (*body)(handles *), handles *all) {
  int ending = -1;
  fflush(NULL);
  const pid_t child = fork();
  REQUIRE(CHECK(child >= 0));
  if (child == 0) {
    alarm(TOO_LONG_SECONDS);
    body(all);
    exit(check_n_failed > 0);
  }
  CHECK_EQUAL(child, waitpid(child, &ending, 0));
  if (!CHECK(WIFEXITED(ending) && WEXITSTATUS(ending) == 0))
    fprintf(stderr, "  the child ended with %#x\n", (unsigned)ending);
}

static handles open_all(void) {
  handles all = {.model = open_model(CHAT_MODEL)};
  all.ctx = new_context(all.model, 0);
  return all;
}

static void free_all(handles *all) {
  umrt_ctx_free(all->ctx);
  umrt_model_free(all->model);
}

static void opens_and_evaluates(handles *unused) {
  (void)unused;
  handles all = open_all();
  CHECK_OK(eval_tokens(all.ctx, tokens, 4));
  CHECK_EQUAL(4, length_of(all.ctx));
  free_all(&all);
}

static void is_refused(umrt_status status) {
  CHECK_STATUS(UMRT_UNSUPPORTED, status);
  CHECK_CONTAINS("forked", umrt_last_error());
}

static void is_refused_what_needs_threads(handles *all) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_model *model;
  umrt_ctx *ctx;
  params.tokens = tokens;
  params.n_tokens = 4;
  is_refused(eval_tokens(all->ctx, tokens, 4));
  is_refused(umrt_generate(all->ctx, &params, NULL, NULL, NULL, NULL));
  is_refused(umrt_ctx_new(all->model, NULL, &ctx));
  is_refused(umrt_model_open(CHAT_MODEL, NULL, &model));
  is_refused(umrt_memory_stats(&memory));
  free_all(all);
}

static void can_still_read(handles *all) {
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  const float *logits;
  int32_t ids[8];
  int32_t token;
  size_t n;
  umrt_sampler *sampler = new_sampler(0, 0);
  CHECK_OK(umrt_model_info_get(all->model, &info));
  CHECK_OK(umrt_tokenize(all->model, "a", 1, 0, ids, 8, &n));
  CHECK_EQUAL(4, length_of(all->ctx));
  CHECK_OK(umrt_logits_view(all->ctx, 0, &logits));
  CHECK_OK(umrt_sample(all->ctx, sampler, 0, &token));
  umrt_sampler_free(sampler);
  free_all(all);
}

static void is_refused_to_open(handles *unused) {
  umrt_model *model;
  (void)unused;
  is_refused(umrt_model_open(CHAT_MODEL, NULL, &model));
  CHECK(model == NULL);
}

static atomic_int has_to_stop;

static void *evaluate_until_stopped(void *userdata) {
  umrt_ctx *ctx = userdata;
  while (!atomic_load(&has_to_stop)) {
    CHECK_OK(eval_tokens(ctx, tokens, 4));
    CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  }
  return NULL;
}

static void forks_in_the_middle_of_an_evaluation_do_no_harm(handles *all) {
  pthread_t thread;
  CHECK_EQUAL(0, pthread_create(&thread, NULL, evaluate_until_stopped, all->ctx));
  for (int i = 0; i < 30; i++) in_child(is_refused_what_needs_threads, all);
  atomic_store(&has_to_stop, 1);
  CHECK_EQUAL(0, pthread_join(thread, NULL));
}

int main(void) {
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  in_child(opens_and_evaluates, NULL);
  CHECK_OK(umrt_init(NULL));
  CHECK_OK(umrt_model_inspect(CHAT_MODEL, &info));
  CHECK_OK(umrt_memory_stats(&memory));
  in_child(opens_and_evaluates, NULL);

  handles all = open_all();
  CHECK_OK(eval_tokens(all.ctx, tokens, 4));
  in_child(is_refused_what_needs_threads, &all);
  in_child(can_still_read, &all);
  CHECK_EQUAL(4, length_of(all.ctx));
  forks_in_the_middle_of_an_evaluation_do_no_harm(&all);
  CHECK_OK(eval_tokens(all.ctx, tokens, 4));
  free_all(&all);
  in_child(is_refused_to_open, NULL);
  opens_and_evaluates(NULL);
  return check_summary(__FILE__);
}

/* batch MODEL [PROMPT]
 *
 * Four texts from one model at once. Each line is a request; a fifth one joins when
 * the first has ended, while the others go on. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "umrt.h"

enum { REQUESTS = 5, AT_ONCE = 4, MAX_TEXT = 2048 };

typedef struct {
  umrt_scheduler *scheduler;
  const char *prompt;
  char text[MAX_TEXT];
} story;

static story stories[REQUESTS];
static int n_begun;

static int begin(umrt_scheduler *scheduler, const char *prompt);

static int32_t add(const char *text, size_t length, int32_t token, void *userdata) {
  story *own = userdata;
  const size_t used = strlen(own->text);
  (void)token;
  if (used + length >= MAX_TEXT) return 1;
  memcpy(own->text + used, text, length + 1);
  return 0;
}

static void show(const umrt_request_result *result, void *userdata) {
  const story *own = userdata;
  if (result->status != UMRT_OK)
    printf("%" PRIu64 ": %s\n", result->id, result->message);
  else
    printf("%" PRIu64 ": %s%s\n   %u tokens, the first after %.1f ms\n\n", result->id, own->prompt,
           own->text, result->n_tokens, (double)result->first_token_ns / 1e6);
  if (n_begun < REQUESTS && begin(own->scheduler, own->prompt) != UMRT_OK)
    fprintf(stderr, "%s\n", umrt_last_error());
}

static int begin(umrt_scheduler *scheduler, const char *prompt) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_request request = UMRT_REQUEST_INIT;
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  story *own = &stories[n_begun++];
  own->scheduler = scheduler;
  own->prompt = prompt;
  sampling.temperature = 0.8f;
  sampling.seed = (uint64_t)n_begun;
  params.prompt = prompt;
  params.max_tokens = 40;
  params.sampling = &sampling;
  request.params = &params;
  request.callback = add;
  request.finished = show;
  request.userdata = own;
  return umrt_scheduler_submit(scheduler, &request, NULL);
}

int main(int argc, char **argv) {
  const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  umrt_scheduler *scheduler = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_step_result step = UMRT_STEP_RESULT_INIT;
  params.n_seq = AT_ONCE;
  params.n_ctx = 512;
  int failed = umrt_model_open(argc > 1 ? argv[1] : ".", NULL, &model) != UMRT_OK ||
               umrt_ctx_new(model, &params, &ctx) != UMRT_OK ||
               umrt_scheduler_new(ctx, NULL, &scheduler) != UMRT_OK;
  while (!failed && n_begun < AT_ONCE) failed = begin(scheduler, prompt) != UMRT_OK;
  if (!failed) do {
      failed = umrt_scheduler_step(scheduler, NULL, &step) != UMRT_OK;
    } while (!failed && step.n_active > 0);
  if (failed) fprintf(stderr, "%s\n", umrt_last_error());
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return failed;
}

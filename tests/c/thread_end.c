/* Hosts free and call from the destructors of their thread-specific data, when
 * the library's own variables of that thread are gone already. */

#include "fixtures.h"

#include <pthread.h>

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
  int was_destroyed;
} owned;

static pthread_key_t key;

static void calls_fail_and_succeed(owned *own) {
  const char *message;
  int32_t token;
  collected out = {.n_calls = 0};
  umrt_token_info info = UMRT_TOKEN_INFO_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "a";
  params.max_tokens = 3;
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_device_count(NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_special_token(own->model, -1, &token));
  message = umrt_last_error();
  CHECK(message != NULL && strlen(message) < 1000);
  CHECK_OK(umrt_token_info_get(own->model, 35, &info));
  CHECK_OK(umrt_generate(own->ctx, &params, collect, &out, NULL, NULL));
}

static void destroy(void *data) {
  owned *own = data;
  calls_fail_and_succeed(own);
  umrt_ctx_free(own->ctx);
  umrt_model_free(own->model);
  own->was_destroyed = 1;
}

static void *leave(void *data) {
  owned *own = data;
  own->model = open_model(CHAT_MODEL);
  own->ctx = new_context(own->model, 0);
  calls_fail_and_succeed(own);
  CHECK_EQUAL(0, pthread_setspecific(key, own));
  return NULL;
}

int main(void) {
  pthread_t thread;
  owned own = {.was_destroyed = 0};
  CHECK_EQUAL(0, pthread_key_create(&key, destroy));
  CHECK_EQUAL(0, pthread_create(&thread, NULL, leave, &own));
  CHECK_EQUAL(0, pthread_join(thread, NULL));
  CHECK(own.was_destroyed);
  CHECK_EQUAL(0, process_memory().kv_reserved_bytes);
  return check_summary(__FILE__);
}

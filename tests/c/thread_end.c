/* Hosts free handles, and may fail, in the destructors of their thread-specific
 * data, when the library's own variables of that thread are gone already. */

#include "fixtures.h"

#include <pthread.h>

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
  umrt_sampler *sampler;
  umrt_detok *detok;
  int was_destroyed;
} owned;

static pthread_key_t key;

static void failures_come_back(const owned *own) {
  int32_t token = 0;
  umrt_token_info info = UMRT_TOKEN_INFO_INIT;
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_device_count(NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_special_token(own->model, -1, &token));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_trim(own->ctx, 1, 0));
  CHECK(umrt_last_error() != NULL);
  /* Has nowhere to keep its bytes by then: any status will do. */
  umrt_token_info_get(own->model, 35, &info);
}

static void destroy(void *data) {
  owned *own = data;
  failures_come_back(own);
  umrt_detok_free(own->detok);
  umrt_sampler_free(own->sampler);
  umrt_ctx_free(own->ctx);
  umrt_model_free(own->model);
  own->was_destroyed = 1;
}

static void *leave(void *data) {
  owned *own = data;
  own->model = open_model(CHAT_MODEL);
  own->ctx = new_context(own->model, 0);
  own->sampler = new_sampler(1, 1);
  CHECK_OK(umrt_detok_new(own->model, &own->detok));
  CHECK_OK(umrt_detok_push(own->detok, 35, NULL, NULL));
  CHECK_OK(eval_tokens(own->ctx, (const int32_t[]){299, 35, 10}, 3));
  failures_come_back(own);
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
  const umrt_memory_info memory = process_memory();
  CHECK_EQUAL(0, memory.kv_reserved_bytes);
  CHECK_EQUAL(0, memory.weights_mapped_bytes);
  return check_summary(__FILE__);
}

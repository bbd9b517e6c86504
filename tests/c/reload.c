/* The library is loaded, used, unloaded and loaded again, as plug-ins are. It
 * takes no symbol from the library at link time, so that it is not loaded
 * already where the linker leaves out what is not needed. */

#include "check.h"

#include <dlfcn.h>
#include <pthread.h>

#ifdef __APPLE__
#define LIBRARY "@rpath/libumrt.dylib"
#else
#define LIBRARY "libumrt.so.0"
#endif

#define MODEL "tests/fixtures/models/llama3-chat-f16"

/* The address of a function; C has no cast from a pointer to data for it. */
static void find(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  if (!CHECK(address != NULL)) exit(1);
  memcpy(function, &address, sizeof address);
}

static void *use(void *library) {
  umrt_status (*model_open)(const char *, const umrt_model_params *, umrt_model **);
  umrt_status (*ctx_new)(const umrt_model *, const umrt_ctx_params *, umrt_ctx **);
  umrt_status (*eval)(umrt_ctx *, const umrt_batch *, const umrt_cancel *, umrt_eval_result *);
  const char *(*last_error)(void);
  void (*ctx_free)(umrt_ctx *);
  void (*model_free)(umrt_model *);
  find(library, "umrt_model_open", &model_open);
  find(library, "umrt_ctx_new", &ctx_new);
  find(library, "umrt_eval", &eval);
  find(library, "umrt_last_error", &last_error);
  find(library, "umrt_ctx_free", &ctx_free);
  find(library, "umrt_model_free", &model_free);

  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = (const int32_t[]){35, 10, 38};
  batch.n_tokens = 3;
  CHECK(model_open("no/model", NULL, &model) == UMRT_NOT_FOUND);
  CHECK(strstr(last_error(), "no/model") != NULL);
  CHECK(model_open(MODEL, NULL, &model) == UMRT_OK);
  CHECK(ctx_new(model, NULL, &ctx) == UMRT_OK);
  CHECK(eval(ctx, &batch, NULL, NULL) == UMRT_OK);
  ctx_free(ctx);
  model_free(model);
  return NULL;
}

/* A thread that used the library keeps it loaded until the thread ends. */
static void use_in_another_thread(void *library) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, use, library) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

int main(void) {
  for (int i = 0; i < 3; i++) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!CHECK(library != NULL)) {
      fprintf(stderr, "  %s\n", dlerror());
      break;
    }
    use_in_another_thread(library);
    if (i > 0) use(library);
    CHECK(dlclose(library) == 0);
  }
  return check_summary(__FILE__);
}

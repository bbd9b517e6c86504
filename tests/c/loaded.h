/* The library through dlopen. Nothing here takes a symbol from it at link time, so that
 * it is not loaded already where the linker leaves out what is not needed. */

#ifndef LOADED_H
#define LOADED_H

#include "check.h"

#include <dlfcn.h>

#ifdef __APPLE__
#define LIBRARY "@rpath/libumrt.dylib"
#else
#define LIBRARY "libumrt.so.0"
#endif

#define LOADED_MODEL "tests/fixtures/models/llama3-chat-f16"

static inline void *load_library(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(library != NULL)) {
    fprintf(stderr, "  %s\n", dlerror());
    exit(1);
  }
  return library;
}

/* The address of a function; C has no cast from a pointer to data for it. */
static inline void find_function(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  if (!CHECK(address != NULL)) exit(1);
  memcpy(function, &address, sizeof address);
}

/* Fails to open a model, opens one and evaluates with it. Fit for a thread. */
static inline void *use_library(void *library) {
  umrt_status (*model_open)(const char *, const umrt_model_params *, umrt_model **);
  umrt_status (*ctx_new)(const umrt_model *, const umrt_ctx_params *, umrt_ctx **);
  umrt_status (*eval)(umrt_ctx *, const umrt_batch *, const umrt_cancel *, umrt_eval_result *);
  const char *(*last_error)(void);
  void (*ctx_free)(umrt_ctx *);
  void (*model_free)(umrt_model *);
  find_function(library, "umrt_model_open", &model_open);
  find_function(library, "umrt_ctx_new", &ctx_new);
  find_function(library, "umrt_eval", &eval);
  find_function(library, "umrt_last_error", &last_error);
  find_function(library, "umrt_ctx_free", &ctx_free);
  find_function(library, "umrt_model_free", &model_free);

  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = (const int32_t[]){35, 10, 38};
  batch.n_tokens = 3;
  CHECK(model_open("no/model", NULL, &model) == UMRT_NOT_FOUND);
  CHECK(strstr(last_error(), "no/model") != NULL);
  CHECK(model_open(LOADED_MODEL, NULL, &model) == UMRT_OK);
  CHECK(ctx_new(model, NULL, &ctx) == UMRT_OK);
  CHECK(eval(ctx, &batch, NULL, NULL) == UMRT_OK);
  ctx_free(ctx);
  model_free(model);
  return NULL;
}

#endif

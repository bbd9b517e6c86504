/* Quantizing a checkpoint: the result, progress, cancellation and what goes wrong. */

#include "fixtures.h"

#include <dirent.h>
#include <unistd.h>

static char folder[] = "/tmp/umrt-quantize-XXXXXX";
static char target[64];

static int n_entries(const char *path) {
  DIR *directory = opendir(path);
  int n = 0;
  if (directory == NULL) return -1;
  /* "." and ".." are always there. */
  while (readdir(directory) != NULL) n += 1;
  closedir(directory);
  return n - 2;
}

typedef struct {
  size_t n_calls, done, total;
  umrt_cancel *cancel;
} watch;

static void on_progress(size_t done, size_t total, void *userdata) {
  watch *seen = userdata;
  seen->n_calls += 1;
  seen->done = done;
  seen->total = total;
  umrt_cancel_trigger(seen->cancel);
}

static void a_quantized_model_is_smaller_and_computes(void) {
  watch seen = {0};
  umrt_quantize_params params = UMRT_QUANTIZE_PARAMS_INIT;
  params.bits = 8;
  params.group_size = 32;
  params.dtype = UMRT_DTYPE_F16;
  params.progress = on_progress;
  params.progress_userdata = &seen;
  REQUIRE(CHECK_OK(umrt_model_quantize(TOKEN_MODEL, target, &params)));
  CHECK(seen.n_calls > 1);
  CHECK_EQUAL(seen.total, seen.done);

  umrt_model_info before = UMRT_MODEL_INFO_INIT, after = UMRT_MODEL_INFO_INIT;
  CHECK_OK(umrt_model_inspect(TOKEN_MODEL, &before));
  CHECK_OK(umrt_model_inspect(target, &after));
  CHECK_EQUAL(8, after.quant_bits);
  CHECK_EQUAL(32, after.quant_group_size);
  CHECK_EQUAL(before.n_parameters, after.n_parameters);
  CHECK(after.weight_bytes * 3 < before.weight_bytes);

  umrt_model *model = open_model(target);
  umrt_ctx *ctx = new_context(model, 0);
  const token_list prompt = read_ids(TOKEN_MODEL "/fixture.json", "prompt_ids");
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static void an_existing_target_is_replaced_only_when_asked(void) {
  umrt_quantize_params params = UMRT_QUANTIZE_PARAMS_INIT;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "exists", umrt_model_quantize(TOKEN_MODEL, target, &params));
  params.mode = UMRT_QUANTIZE_MXFP8;
  params.flags = UMRT_QUANTIZE_REPLACE;
  CHECK_OK(umrt_model_quantize(TOKEN_MODEL, target, &params));
  CHECK_EQUAL(1, n_entries(folder));
}

static void what_is_wrong_is_said_and_leaves_nothing(void) {
  char other[sizeof target + 2];
  snprintf(other, sizeof other, "%s-2", target);
  umrt_quantize_params params = UMRT_QUANTIZE_PARAMS_INIT;
  params.bits = 7;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "bits is 7", umrt_model_quantize(TOKEN_MODEL, other, &params));
  params.bits = 0;
  params.recipe = 9;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "recipe 9", umrt_model_quantize(TOKEN_MODEL, other, &params));
  params.recipe = UMRT_RECIPE_NONE;
  params.flags = 2;
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_model_quantize(TOKEN_MODEL, other, &params));
  CHECK_FAILS(UMRT_UNSUPPORTED, "quantized already", umrt_model_quantize(target, other, NULL));
  CHECK_FAILS(UMRT_NOT_FOUND, "none", umrt_model_quantize("none", other, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "source", umrt_model_quantize(NULL, other, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "target", umrt_model_quantize(TOKEN_MODEL, NULL, NULL));

  watch seen = {0};
  umrt_quantize_params cancelled = UMRT_QUANTIZE_PARAMS_INIT;
  CHECK_OK(umrt_cancel_new(&seen.cancel));
  cancelled.cancel = seen.cancel;
  cancelled.progress = on_progress;
  cancelled.progress_userdata = &seen;
  CHECK_FAILS(UMRT_CANCELLED, "cancelled", umrt_model_quantize(TOKEN_MODEL, other, &cancelled));
  umrt_cancel_free(seen.cancel);
  CHECK_EQUAL(1, n_entries(folder));
}

static void remove_all(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  CHECK_EQUAL(0, system(command));
}

int main(void) {
  REQUIRE(CHECK(mkdtemp(folder) != NULL));
  snprintf(target, sizeof target, "%s/model", folder);
  a_quantized_model_is_smaller_and_computes();
  an_existing_target_is_replaced_only_when_asked();
  what_is_wrong_is_said_and_leaves_nothing();
  remove_all();
  return check_summary(__FILE__);
}

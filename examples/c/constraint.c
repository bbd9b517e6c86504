/* Text that is what a JSON Schema says: constraint MODEL */

#include <stdio.h>
#include <string.h>

#include "umrt.h"

static int32_t print(const char *text, size_t length, int32_t token, void *userdata) {
  (void)length, (void)token, (void)userdata;
  return fputs(text, stdout) == EOF || fflush(stdout) == EOF;
}

int main(int argc, char **argv) {
  const char *schema =
      "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 12},"
      " \"legs\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 8}},"
      " \"required\": [\"name\", \"legs\"], \"additionalProperties\": false}";
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  umrt_constraint *animal = NULL;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "My animal: ";
  params.max_tokens = 200;

  int failed = umrt_model_open(argc > 1 ? argv[1] : ".", NULL, &model) != UMRT_OK ||
               umrt_ctx_new(model, NULL, &ctx) != UMRT_OK ||
               umrt_constraint_new(model, UMRT_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema),
                                   &animal) != UMRT_OK;
  params.constraint = animal;
  failed = failed || umrt_generate(ctx, &params, print, NULL, NULL, NULL) != UMRT_OK;
  if (failed) fprintf(stderr, "%s\n", umrt_last_error());
  puts("");
  umrt_constraint_free(animal);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return failed;
}

/* Texts under a constraint: what is made of it, and what is refused. */

#include "fixtures.h"

#include <string.h>

#define MODEL "examples/models/umrt-tales-4bit"
#define DATE "(19|20)[0-9]{2}-[01][0-9]"

static umrt_model *model;

static umrt_constraint *constraint_of(uint32_t kind, const char *text) {
  umrt_constraint *constraint = NULL;
  REQUIRE(CHECK_OK(umrt_constraint_new(model, kind, text, strlen(text), &constraint)));
  return constraint;
}

static int is_date(const char *text) {
  return strlen(text) == 7 && text[4] == '-' && strspn(text, "0123456789-") == 7 &&
         (strncmp(text, "19", 2) == 0 || strncmp(text, "20", 2) == 0);
}

static umrt_generate_params of_date(const umrt_constraint *date) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "Once upon a time";
  params.max_tokens = 40;
  params.constraint = date;
  return params;
}

static void a_text_ends_where_nothing_can_be_added(umrt_ctx *ctx) {
  umrt_constraint *date = constraint_of(UMRT_CONSTRAINT_REGEX, DATE);
  umrt_generate_params params = of_date(date);
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  collected out = {.n_calls = 0};
  CHECK_OK(umrt_generate(ctx, &params, collect, &out, NULL, &result));
  CHECK_EQUAL(UMRT_STOP_END, result.stop_reason);
  CHECK(is_date(out.text));
  params.flags = UMRT_GENERATE_IGNORE_END;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "ignore_end",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  umrt_constraint_free(date);
}

static void requests_keep_their_constraint(umrt_ctx *ctx) {
  umrt_constraint *date = constraint_of(UMRT_CONSTRAINT_REGEX, DATE);
  umrt_generate_params params = of_date(date);
  collected texts[2] = {{.n_calls = 0}};
  umrt_request requests[2] = {UMRT_REQUEST_INIT, UMRT_REQUEST_INIT};
  umrt_request_result results[2] = {UMRT_REQUEST_RESULT_INIT, UMRT_REQUEST_RESULT_INIT};
  for (int i = 0; i < 2; i++) {
    requests[i].params = &params;
    requests[i].callback = collect;
    requests[i].userdata = &texts[i];
  }
  CHECK_OK(umrt_generate_many(ctx, requests, 2, NULL, results));
  umrt_constraint_free(date);
  for (int i = 0; i < 2; i++) {
    CHECK_EQUAL(UMRT_STOP_END, results[i].stop_reason);
    CHECK(is_date(texts[i].text));
  }
}

static void a_loop_of_ones_own_follows_one(umrt_ctx *ctx) {
  umrt_sampler *sampler = NULL;
  umrt_batch batch = UMRT_BATCH_INIT;
  int32_t token = 5, end = -1;
  char text[64] = "";
  int n_tokens = 0;
  umrt_constraint *date = constraint_of(UMRT_CONSTRAINT_REGEX, DATE);
  CHECK_OK(umrt_special_token(model, UMRT_SPECIAL_EOS, &end));
  CHECK_OK(umrt_sampler_new(NULL, &sampler));
  CHECK_OK(umrt_sampler_constrain(sampler, date));
  umrt_constraint_free(date);
  batch.tokens = &token;
  batch.n_tokens = 1;
  int32_t tokens[32];
  while (CHECK_OK(umrt_eval(ctx, &batch, NULL, NULL)) &&
         CHECK_OK(umrt_sample(ctx, sampler, 0, &token)) && token != end && n_tokens < 32)
    tokens[n_tokens++] = token;
  CHECK_OK(umrt_detokenize(model, tokens, (size_t)n_tokens, 0, text, sizeof text, NULL));
  CHECK(is_date(text));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "behind the end", umrt_sampler_accept(sampler, tokens[0]));
  CHECK_OK(umrt_sampler_constrain(sampler, NULL));
  CHECK_OK(umrt_sampler_accept(sampler, tokens[0]));
  umrt_sampler_free(sampler);
}

static void refusals_say_why(umrt_ctx *ctx) {
  static const struct {
    uint32_t kind;
    umrt_status status;
    const char *text, *part;
  } refused[] = {
      {0, UMRT_INVALID_ARGUMENT, "", "UMRT_CONSTRAINT_"},
      {UMRT_CONSTRAINT_JSON_SCHEMA, UMRT_INVALID_ARGUMENT, "{", "line 1 column 1"},
      {UMRT_CONSTRAINT_JSON_SCHEMA, UMRT_UNSUPPORTED, "{\"not\": {}}", "not"},
      {UMRT_CONSTRAINT_REGEX, UMRT_INVALID_ARGUMENT, "(", "unclosed group"},
      {UMRT_CONSTRAINT_GRAMMAR, UMRT_INVALID_ARGUMENT, "text: \"a\"", "start"},
      {UMRT_CONSTRAINT_JSON, UMRT_INVALID_ARGUMENT, "{}", "limit is 0"},
  };
  umrt_constraint *constraint = NULL;
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    CHECK_FAILS(refused[i].status, refused[i].part,
                umrt_constraint_new(model, refused[i].kind, refused[i].text,
                                    strlen(refused[i].text), &constraint));
    CHECK(constraint == NULL);
  }
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL",
              umrt_constraint_new(NULL, UMRT_CONSTRAINT_JSON, NULL, 0, &constraint));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL",
              umrt_constraint_new(model, UMRT_CONSTRAINT_JSON, NULL, 0, NULL));
  umrt_model *other = NULL;
  CHECK_OK(umrt_model_open(CHAT_MODEL, NULL, &other));
  CHECK_OK(umrt_constraint_new(other, UMRT_CONSTRAINT_JSON, NULL, 0, &constraint));
  umrt_model_free(other);
  umrt_generate_params params = of_date(constraint);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "another model",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  umrt_constraint_free(constraint);
  umrt_constraint_free(NULL);
}

int main(void) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = 256;
  params.n_seq = 3;
  REQUIRE(CHECK_OK(umrt_model_open(MODEL, NULL, &model)));
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  a_text_ends_where_nothing_can_be_added(ctx);
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  requests_keep_their_constraint(ctx);
  a_loop_of_ones_own_follows_one(ctx);
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  refusals_say_why(ctx);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

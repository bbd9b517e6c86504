/* One call from a prompt to text: what it takes, what it hands over, how it ends. */

#include "fixtures.h"

#include <time.h>

#define CHAT_JSON CHAT_MODEL "/chat.json"
#define CONVERSATION                                                                  \
  "{\"messages\":[{\"role\":\"system\",\"content\":\"You are terse.\"},"              \
  "{\"role\":\"user\",\"content\":\"What is 16 + 17? \xf0\x9f\x91\x8d\"}],"           \
  "\"date_string\":\"09 Mar 2025\"}"

static umrt_model *model;

static umrt_generate_params of_tokens(const token_list *tokens, uint32_t max_tokens) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.tokens = tokens->ids;
  params.n_tokens = tokens->n;
  params.max_tokens = max_tokens;
  params.flags = UMRT_GENERATE_IGNORE_END;
  return params;
}

/* From an empty sequence; `out` may be NULL. */
static umrt_generate_result generate(umrt_ctx *ctx, const umrt_generate_params *params,
                                     collected *out) {
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  if (out != NULL) *out = (collected){.n_calls = 0};
  CHECK_OK(umrt_generate(ctx, params, out ? collect : NULL, out, NULL, &result));
  return result;
}

static void exactly_one_prompt_is_taken(umrt_ctx *ctx) {
  const int32_t token = 35;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "exactly one",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  params.prompt = "a";
  params.chat = CONVERSATION;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "exactly one",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  params.prompt = NULL;
  params.tokens = &token;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "exactly one",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  params.chat = NULL;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "no tokens",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  CHECK_EQUAL(0, length_of(ctx));
}

static void a_chat_continues_as_with_transformers(umrt_ctx *ctx) {
  char expected[512];
  collected out;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  const token_list greedy = read_ids(CHAT_JSON, "greedy_ids");
  CHECK_OK(umrt_detokenize(model, greedy.ids, greedy.n, UMRT_DETOKENIZE_SKIP_SPECIAL, expected,
                           sizeof expected, NULL));
  params.chat = CONVERSATION;
  params.max_tokens = (uint32_t)greedy.n;
  params.flags = UMRT_GENERATE_IGNORE_END;
  const umrt_generate_result result = generate(ctx, &params, &out);
  CHECK_TEXT(expected, out.text);
  CHECK_EQUAL(UMRT_STOP_MAX_TOKENS, result.stop_reason);
  CHECK_EQUAL(prompt.n, result.n_prompt_tokens);
  CHECK_EQUAL(greedy.n, result.n_tokens);
  CHECK(result.prompt_ns > 0 && result.decode_ns > 0);
  CHECK_EQUAL(prompt.n + greedy.n - 1, length_of(ctx));

  params.chat = NULL;
  params.tokens = prompt.ids;
  params.n_tokens = prompt.n;
  generate(ctx, &params, &out);
  CHECK_TEXT(expected, out.text);
}

static int32_t expect_whole_characters(const char *text, size_t length, int32_t token,
                                       void *userdata) {
  CHECK(length > 0 && strlen(text) == length);
  CHECK(((unsigned char)text[0] & 0xc0) != 0x80);
  /* The last character's first byte says how long it is. */
  size_t last = length - 1;
  while (last > 0 && ((unsigned char)text[last] & 0xc0) == 0x80) last--;
  const unsigned char first = (unsigned char)text[last];
  CHECK_EQUAL(first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4, length - last);
  CHECK(token >= 0);
  return collect(text, length, token, userdata);
}

static void callbacks_get_whole_characters(umrt_ctx *ctx) {
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 150);
  sampling.temperature = 3; /* Random bytes: most of them no whole characters. */
  params.sampling = &sampling;
  for (sampling.seed = 0; sampling.seed < 5; sampling.seed++) {
    collected out = {.n_calls = 0};
    CHECK_OK(umrt_seq_trim(ctx, 0, 0));
    CHECK_OK(umrt_generate(ctx, &params, expect_whole_characters, &out, NULL, NULL));
    CHECK(out.n_calls > 20);
  }
}

static void stop_strings_are_not_part_of_the_text(umrt_ctx *ctx) {
  collected all, cut;
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 32);
  generate(ctx, &params, &all);
  const char *end = strstr(all.text, "oac");
  REQUIRE(CHECK(end != NULL));
  params.stop = (const char *const[]){"not in there", "oac"};
  params.n_stop = 2;
  const umrt_generate_result result = generate(ctx, &params, &cut);
  CHECK_EQUAL(UMRT_STOP_STRING, result.stop_reason);
  CHECK(result.n_tokens < 32);
  CHECK_EQUAL(end - all.text, cut.length);
  CHECK(strncmp(all.text, cut.text, cut.length) == 0);
  params.stop = (const char *const[]){"not in there", ""};
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "stop string 1",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
}

static void generation_ends_where_it_should(umrt_ctx *ctx) {
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 1);
  CHECK_EQUAL(1, generate(ctx, &params, NULL).n_tokens);
  params.max_tokens = 0;
  umrt_ctx *small = new_context(model, (uint32_t)prompt.n + 4);
  umrt_generate_result result = generate(small, &params, NULL);
  CHECK_EQUAL(UMRT_STOP_CONTEXT_FULL, result.stop_reason);
  CHECK_EQUAL(5, result.n_tokens);
  CHECK_EQUAL(prompt.n + 4, length_of(small));
  CHECK_FAILS(UMRT_NO_SPACE, "n_ctx", umrt_generate(small, &params, NULL, NULL, NULL, NULL));
  umrt_ctx_free(small);
  params.seq = 1;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence 1",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));

  /* Drawn evenly among 320 tokens, two of which end a text: soon one does. */
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  sampling.temperature = 100;
  params = of_tokens(&prompt, 0);
  params.flags = 0;
  params.sampling = &sampling;
  int ended = 0;
  for (sampling.seed = 0; sampling.seed < 20 && !ended; sampling.seed++)
    ended = generate(ctx, &params, NULL).stop_reason == UMRT_STOP_END;
  CHECK(ended);
}

static int32_t stop_at_third(const char *text, size_t length, int32_t token, void *userdata) {
  collect(text, length, token, userdata);
  return ((collected *)userdata)->n_calls == 3;
}

static void the_callback_can_stop_it(umrt_ctx *ctx) {
  collected out = {.n_calls = 0};
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  const umrt_generate_params params = of_tokens(&prompt, 32);
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_generate(ctx, &params, stop_at_third, &out, NULL, &result));
  CHECK_EQUAL(3, out.n_calls);
  CHECK_EQUAL(UMRT_STOP_CALLBACK, result.stop_reason);
  CHECK_EQUAL(prompt.n + result.n_tokens - 1, length_of(ctx));
}

static void samplers_go_on_between_calls(umrt_ctx *ctx) {
  collected whole, first, second = {.n_calls = 0};
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 1);
  int32_t next;
  for (int from_sampler = 0; from_sampler < 2; from_sampler++) {
    umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
    sampling.temperature = 1;
    sampling.seed = 5;
    params = of_tokens(&prompt, 12);
    params.sampling = &sampling;
    generate(ctx, &params, &whole);
    umrt_sampler *sampler = from_sampler ? new_sampler(1, 5) : NULL;
    params.sampler = sampler;
    generate(ctx, &params, &first);
    CHECK_TEXT(whole.text, first.text);
    umrt_sampler_free(sampler);
  }
  /* A second call with the sampler continues its random numbers: other text. */
  umrt_sampler *sampler = new_sampler(1, 5);
  params.sampler = sampler;
  generate(ctx, &params, &first);
  generate(ctx, &params, &second);
  CHECK(strcmp(first.text, second.text) != 0);
  CHECK_OK(umrt_sampler_reset(sampler));
  CHECK_OK(umrt_sample(ctx, sampler, 0, &next));
  umrt_sampler_free(sampler);
}

typedef struct {
  umrt_ctx *ctx;
  const umrt_cancel *cancel;
  int n_calls;
} inside;

static int32_t call_back_in(const char *text, size_t length, int32_t token, void *userdata) {
  inside *in = userdata;
  uint32_t n_tokens;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  (void)text, (void)length;
  in->n_calls++;
  CHECK_FAILS(UMRT_BUSY, "context", umrt_seq_length(in->ctx, 0, &n_tokens));
  CHECK_STATUS(UMRT_BUSY, eval_tokens(in->ctx, &token, 1));
  CHECK_OK(umrt_model_info_get(model, &info));
  umrt_cancel_trigger(in->cancel);
  return 0;
}

static void cancelling_leaves_a_usable_context(umrt_ctx *ctx) {
  collected undisturbed, after;
  umrt_cancel *cancel;
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  const umrt_generate_params params = of_tokens(&prompt, 16);
  CHECK_OK(umrt_cancel_new(&cancel));
  generate(ctx, &params, &undisturbed);

  inside in = {.ctx = ctx};
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_generate(ctx, &params, call_back_in, &in, cancel, NULL));
  CHECK(in.n_calls > 3);

  in = (inside){.ctx = ctx, .cancel = cancel};
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_STATUS(UMRT_CANCELLED, umrt_generate(ctx, &params, call_back_in, &in, cancel, &result));
  CHECK_EQUAL(1, in.n_calls);
  CHECK(length_of(ctx) >= prompt.n);

  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_STATUS(UMRT_CANCELLED, umrt_generate(ctx, &params, collect, &after, cancel, &result));
  CHECK_EQUAL(0, length_of(ctx));
  generate(ctx, &params, &after);
  CHECK_TEXT(undisturbed.text, after.text);
  umrt_cancel_free(cancel);
}

static int32_t take_long(const char *text, size_t length, int32_t token, void *userdata) {
  nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
  return collect(text, length, token, userdata);
}

static void a_generation_that_takes_too_long_keeps_its_tokens(umrt_ctx *ctx) {
  collected undisturbed, out = {.n_calls = 0};
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 16);
  generate(ctx, &params, &undisturbed);
  params.deadline_ms = 50;
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_FAILS(UMRT_DEADLINE_EXCEEDED, "deadline",
              umrt_generate(ctx, &params, take_long, &out, NULL, NULL));
  CHECK(out.n_calls <= 1);
  CHECK_EQUAL(0, strncmp(undisturbed.text, out.text, out.length));
  params.deadline_ms = 60000;
  out = (collected){.n_calls = 0};
  generate(ctx, &params, &out);
  CHECK_TEXT(undisturbed.text, out.text);
}

/* The operations of GPUs, on the CPU. */
static void tokens_are_the_same_wherever_they_are_chosen(void) {
  umrt_model *stock;
  umrt_model_params model_params = UMRT_MODEL_PARAMS_INIT;
  model_params.cpu_ops = UMRT_CPU_OPS_STOCK;
  CHECK_OK(umrt_model_open(CHAT_MODEL, &model_params, &stock));
  umrt_ctx *ctx = new_context(stock, 0);
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 24);
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  params.sampling = &sampling;
  for (int warm = 0; warm < 2; warm++) {
    collected outs[3] = {{.n_calls = 0}};
    sampling.temperature = warm ? 0.9f : 0.0f;
    sampling.top_p = 0.95f;
    sampling.seed = 7;
    const uint32_t devices[] = {UMRT_DEVICE_AUTO, UMRT_DEVICE_CPU, UMRT_DEVICE_GPU};
    for (int i = 0; i < 3; i++) {
      CHECK_OK(umrt_seq_trim(ctx, 0, 0));
      params.sampling_device = devices[i];
      generate(ctx, &params, &outs[i]);
    }
    CHECK_TEXT(outs[1].text, outs[0].text);
    CHECK_TEXT(outs[1].text, outs[2].text);
  }
  sampling.presence_penalty = 0.5f;
  sampling.repetition_window = 16;
  CHECK_FAILS(UMRT_UNSUPPORTED, "presence_penalty",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  umrt_ctx_free(ctx);
  umrt_model_free(stock);
}

static void only_what_computes_on_a_gpu_chooses_there(umrt_ctx *ctx) {
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_generate_params params = of_tokens(&prompt, 4);
  params.sampling_device = UMRT_DEVICE_GPU;
  CHECK_FAILS(UMRT_UNSUPPORTED, "computes on the CPU",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  params.sampling_device = 3;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sampling_device 3",
              umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
}

int main(void) {
  model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 0);
  exactly_one_prompt_is_taken(ctx);
  a_chat_continues_as_with_transformers(ctx);
  callbacks_get_whole_characters(ctx);
  stop_strings_are_not_part_of_the_text(ctx);
  generation_ends_where_it_should(ctx);
  the_callback_can_stop_it(ctx);
  samplers_go_on_between_calls(ctx);
  cancelling_leaves_a_usable_context(ctx);
  a_generation_that_takes_too_long_keeps_its_tokens(ctx);
  tokens_are_the_same_wherever_they_are_chosen();
  only_what_computes_on_a_gpu_chooses_there(ctx);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

/* Text to tokens and back, and conversations to prompts. */

#include "fixtures.h"

#define CHAT_JSON CHAT_MODEL "/chat.json"

static umrt_model *model;

static const char *const texts[] = {
    "", "a", "Once upon a time", "  two\n\nlines\t", "na\xc3\xafve \xf0\x9f\x91\x8d \xe6\xbc\xa2",
    "it costs 12,345.67 <|eot_id|>",
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

static token_list tokens_of(const char *text, uint32_t flags) {
  token_list list = {.n = 0};
  CHECK_OK(umrt_tokenize(model, text, strlen(text), flags, list.ids, MAX_IDS, &list.n));
  return list;
}

static void texts_survive_the_round_trip(void) {
  char back[256];
  size_t needed;
  for (int i = 0; i < N_TEXTS; i++) {
    const token_list list = tokens_of(texts[i], 0);
    CHECK_OK(umrt_detokenize(model, list.ids, list.n, 0, back, sizeof back, &needed));
    CHECK_TEXT(texts[i], back);
    CHECK_EQUAL(strlen(texts[i]) + 1, needed);
  }
}

static void flags_decide_about_special_tokens(void) {
  char text[64];
  int32_t bos = -1;
  CHECK_OK(umrt_special_token(model, UMRT_SPECIAL_BOS, &bos));
  const token_list plain = tokens_of("a<|eot_id|>", 0);
  const token_list parsed = tokens_of("a<|eot_id|>", UMRT_TOKENIZE_PARSE_SPECIAL);
  const token_list added = tokens_of("a", UMRT_TOKENIZE_ADD_SPECIAL);
  CHECK(plain.n > 2);
  CHECK_EQUAL(2, parsed.n);
  CHECK_EQUAL(2, added.n);
  CHECK_EQUAL(bos, added.ids[0]);
  CHECK_OK(umrt_detokenize(model, parsed.ids, 2, 0, text, sizeof text, NULL));
  CHECK_TEXT("a<|eot_id|>", text);
  CHECK_OK(umrt_detokenize(model, parsed.ids, 2, UMRT_DETOKENIZE_SKIP_SPECIAL, text, sizeof text,
                           NULL));
  CHECK_TEXT("a", text);
}

static void small_buffers_stay_untouched(void) {
  int32_t ids[4] = {-7, -7, -7, -7};
  char text[8] = "pattern";
  size_t needed = 0;
  const token_list list = tokens_of("Once upon a time", 0);
  CHECK(list.n > 4);
  CHECK_FAILS(UMRT_NO_SPACE, "needed",
              umrt_tokenize(model, "Once upon a time", 16, 0, ids, 4, &needed));
  CHECK_EQUAL(list.n, needed);
  for (int i = 0; i < 4; i++) CHECK_EQUAL(-7, ids[i]);
  CHECK_STATUS(UMRT_NO_SPACE,
               umrt_detokenize(model, list.ids, list.n, 0, text, sizeof text, &needed));
  CHECK_EQUAL(17, needed);
  CHECK_TEXT("pattern", text);
  /* One byte short: the text itself would fit, its NUL would not. */
  CHECK_STATUS(UMRT_NO_SPACE, umrt_model_metadata(model, "model_type", text, 5, &needed));
  CHECK_EQUAL(6, needed);
  CHECK_TEXT("pattern", text);
  CHECK_STATUS(UMRT_NO_SPACE, umrt_tokenize(model, "a", 1, 0, NULL, 0, &needed));
  CHECK_EQUAL(1, needed);
  CHECK_OK(umrt_tokenize(model, NULL, 0, 0, NULL, 0, &needed));
  CHECK_EQUAL(0, needed);
}

static void bad_input_is_refused(void) {
  int32_t ids[8];
  char text[8];
  const int32_t beyond = 320, below = -1;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "UTF-8", umrt_tokenize(model, "a\xff", 2, 0, ids, 8, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "text", umrt_tokenize(model, "a", SIZE_MAX, 0, ids, 8, NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_detokenize(model, &below, 1, 0, text, 8, NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_detokenize(model, &beyond, 1, 0, text, 8, NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_special_token(model, 7, ids));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_special_token(model, -1, ids));
  CHECK_FAILS(UMRT_NOT_FOUND, "mask", umrt_special_token(model, UMRT_SPECIAL_MASK, ids));
  CHECK_FAILS(UMRT_NOT_FOUND, "no_key", umrt_model_metadata(model, "no_key.x", text, 8, NULL));
}

/* Checkpoints pad their vocabulary: 320 rows of weights here, 304 tokens. */
static void padding_of_the_vocabulary_is_empty_text(void) {
  char text[8] = "pattern";
  const char *piece;
  size_t length = 1;
  umrt_detok *detok;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  CHECK_OK(umrt_model_info_get(model, &info));
  const int32_t padding = (int32_t)info.vocab_size - 1;
  CHECK_OK(umrt_detokenize(model, &padding, 1, 0, text, sizeof text, NULL));
  CHECK_TEXT("", text);
  CHECK_OK(umrt_detok_new(model, &detok));
  CHECK_OK(umrt_detok_push(detok, padding, &piece, &length));
  CHECK_EQUAL(0, length);
  umrt_detok_free(detok);
}

static void tokens_are_described(void) {
  int32_t eos = -1;
  umrt_token_info info = UMRT_TOKEN_INFO_INIT;
  const token_list a = tokens_of("a", 0);
  CHECK_OK(umrt_token_info_get(model, a.ids[0], &info));
  CHECK_EQUAL(1, info.n_bytes);
  CHECK_EQUAL('a', info.bytes[0]);
  CHECK_EQUAL(0, info.flags);
  CHECK_OK(umrt_special_token(model, UMRT_SPECIAL_EOS, &eos));
  CHECK_OK(umrt_token_info_get(model, eos, &info));
  CHECK_EQUAL(UMRT_TOKEN_SPECIAL | UMRT_TOKEN_END, info.flags);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_token_info_get(model, 1 << 20, &info));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_token_info_get(model, -1, &info));
}

static int is_whole_utf8(const char *text, size_t length) {
  const unsigned char *bytes = (const unsigned char *)text;
  size_t i = 0;
  while (i < length) {
    size_t n = bytes[i] < 0x80 ? 1 : bytes[i] < 0xe0 ? 2 : bytes[i] < 0xf0 ? 3 : 4;
    if ((bytes[i] & 0xc0) == 0x80 || i + n > length) return 0;
    while (--n > 0)
      if ((bytes[++i] & 0xc0) != 0x80) return 0;
    i++;
  }
  return 1;
}

static void a_stream_gives_the_same_text_in_whole_characters(void) {
  umrt_detok *detok;
  const char *piece;
  size_t length;
  CHECK_OK(umrt_detok_new(model, &detok));
  for (int i = 0; i < N_TEXTS; i++) {
    char streamed[256] = "";
    const token_list list = tokens_of(texts[i], 0);
    for (size_t at = 0; at < list.n; at++) {
      CHECK_OK(umrt_detok_push(detok, list.ids[at], &piece, &length));
      CHECK_EQUAL(strlen(piece), length);
      CHECK(is_whole_utf8(piece, length));
      strcat(streamed, piece);
    }
    CHECK_OK(umrt_detok_finish(detok, &piece, &length));
    strcat(streamed, piece);
    CHECK_TEXT(texts[i], streamed);
  }
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_detok_push(detok, -1, &piece, &length));
  const token_list thumb = tokens_of("\xf0\x9f\x91\x8d", 0);
  CHECK(thumb.n > 1);
  CHECK_OK(umrt_detok_push(detok, thumb.ids[0], &piece, &length));
  CHECK_EQUAL(0, length);
  CHECK_OK(umrt_detok_finish(detok, &piece, &length));
  CHECK_TEXT("\xef\xbf\xbd", piece);
  umrt_detok_free(detok);
}

static umrt_status render(const char *json, char *buffer, size_t capacity, size_t *needed) {
  return umrt_chat_render(model, json, strlen(json), buffer, capacity, needed);
}

static void a_conversation_becomes_the_prompt_that_transformers_makes(void) {
  char prompt[512];
  size_t needed;
  const char *json =
      "{\"messages\":[{\"role\":\"system\",\"content\":\"You are terse.\"},"
      "{\"role\":\"user\",\"content\":\"What is 16 + 17? \xf0\x9f\x91\x8d\"}],"
      "\"date_string\":\"09 Mar 2025\"}";
  const token_list expected = read_ids(CHAT_JSON, "prompt_ids");
  CHECK_OK(render(json, prompt, sizeof prompt, &needed));
  CHECK_EQUAL(strlen(prompt) + 1, needed);
  const token_list rendered = tokens_of(prompt, UMRT_TOKENIZE_PARSE_SPECIAL);
  CHECK_EQUAL(expected.n, rendered.n);
  CHECK(memcmp(expected.ids, rendered.ids, expected.n * sizeof *expected.ids) == 0);
}

static void refused_conversations_say_why(void) {
  char prompt[512] = "untouched";
  size_t needed;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "Only one tool call at a time is supported!",
              render("{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[]}]}",
                     prompt, sizeof prompt, &needed));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "JSON", render("{", prompt, sizeof prompt, &needed));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "messages", render("{}", prompt, sizeof prompt, &needed));
  CHECK_STATUS(UMRT_NO_SPACE, render("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                                     prompt, 9, &needed));
  CHECK(needed > 9);
  CHECK_TEXT("untouched", prompt);
}

static void a_model_without_tokenizer_says_so(void) {
  int32_t ids[4] = {1};
  char text[8];
  umrt_detok *detok;
  umrt_token_info token = UMRT_TOKEN_INFO_INIT;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_model *bare = open_model(TOKEN_MODEL);
  CHECK_OK(umrt_model_info_get(bare, &info));
  CHECK_EQUAL(0, info.has_tokenizer);
  CHECK_EQUAL(0, info.has_chat_template);
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer.json", umrt_tokenize(bare, "a", 1, 0, ids, 4, NULL));
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer.json", umrt_detokenize(bare, ids, 1, 0, text, 8, NULL));
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer.json", umrt_token_info_get(bare, 1, &token));
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer.json", umrt_special_token(bare, UMRT_SPECIAL_BOS, ids));
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer.json", umrt_detok_new(bare, &detok));
  CHECK(detok == NULL);
  CHECK_FAILS(UMRT_NOT_FOUND, "chat template",
              umrt_chat_render(bare, "{\"messages\":[]}", 15, text, 8, NULL));
  umrt_model_free(bare);
}

int main(void) {
  model = open_model(CHAT_MODEL);
  texts_survive_the_round_trip();
  flags_decide_about_special_tokens();
  small_buffers_stay_untouched();
  bad_input_is_refused();
  padding_of_the_vocabulary_is_empty_text();
  tokens_are_described();
  a_stream_gives_the_same_text_in_whole_characters();
  a_conversation_becomes_the_prompt_that_transformers_makes();
  refused_conversations_say_why();
  a_model_without_tokenizer_says_so();
  umrt_model_free(model);
  return check_summary(__FILE__);
}

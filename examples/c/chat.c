/* chat MODEL [SYSTEM_MESSAGE]
 *
 * A conversation, one line at a time. Ctrl-C cancels the answer, not the program;
 * Ctrl-D ends it. */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "umrt.h"

/* A string that grows. */
typedef struct {
  char *text;
  size_t length, capacity;
} string;

static umrt_cancel *cancel;

static void on_interrupt(int number) {
  (void)number;
  umrt_cancel_trigger(cancel);
}

static void append(string *s, const char *text, size_t length) {
  if (s->length + length + 1 > s->capacity) {
    s->capacity = 2 * (s->length + length + 1);
    s->text = realloc(s->text, s->capacity);
    if (!s->text) exit(1);
  }
  memcpy(s->text + s->length, text, length);
  s->length += length;
  s->text[s->length] = '\0';
}

static void append_text(string *s, const char *text) { append(s, text, strlen(text)); }

/* Adds `{"role":"...","content":"..."}` to the list of messages. */
static void append_message(string *chat, const char *role, const char *content) {
  append_text(chat, chat->text[chat->length - 1] == '[' ? "{\"role\":\"" : ",{\"role\":\"");
  append_text(chat, role);
  append_text(chat, "\",\"content\":\"");
  for (; *content; content++) {
    const unsigned char byte = (unsigned char)*content;
    char escaped[8];
    if (byte == '"' || byte == '\\') snprintf(escaped, sizeof escaped, "\\%c", byte);
    else if (byte < 0x20) snprintf(escaped, sizeof escaped, "\\u%04x", byte);
    else snprintf(escaped, sizeof escaped, "%c", byte);
    append_text(chat, escaped);
  }
  append_text(chat, "\"}");
}

static int32_t receive(const char *text, size_t length, int32_t token, void *answer) {
  (void)token;
  append(answer, text, length);
  return fwrite(text, 1, length, stdout) < length || fflush(stdout) != 0;
}

/* Reads the conversation from its beginning and adds the answer to it. */
static umrt_status reply(umrt_ctx *ctx, string *chat) {
  string answer = {0};
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  sampling.temperature = 0.7f;
  params.sampling = &sampling;
  append_text(chat, "]}");
  params.chat = chat->text;
  umrt_cancel_reset(cancel);
  umrt_status status = umrt_seq_trim(ctx, 0, 0);
  if (status == UMRT_OK) status = umrt_generate(ctx, &params, receive, &answer, cancel, NULL);
  chat->length -= strlen("]}");
  chat->text[chat->length] = '\0';
  if (answer.text) append_message(chat, "assistant", answer.text);
  free(answer.text);
  puts(status == UMRT_CANCELLED ? " (cancelled)" : "");
  return status == UMRT_CANCELLED ? UMRT_OK : status;
}

static umrt_status converse(umrt_ctx *ctx, const char *system_message) {
  umrt_status status = UMRT_OK;
  char line[4096];
  string chat = {0};
  append_text(&chat, "{\"messages\":[");
  if (system_message) append_message(&chat, "system", system_message);
  while (status == UMRT_OK && fputs("> ", stdout) >= 0 && fflush(stdout) == 0 &&
         fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = '\0';
    if (*line == '\0') continue;
    append_message(&chat, "user", line);
    status = reply(ctx, &chat);
  }
  putchar('\n');
  free(chat.text);
  return status;
}

int main(int argc, char **argv) {
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  if (argc < 2) {
    fputs("usage: chat MODEL [SYSTEM_MESSAGE]\n", stderr);
    return 2;
  }
  /* A read of the next line goes on behind a signal. */
  struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
  const int failed = umrt_cancel_new(&cancel) || sigaction(SIGINT, &interrupt, NULL) ||
                     umrt_model_open(argv[1], NULL, &model) || umrt_ctx_new(model, NULL, &ctx) ||
                     converse(ctx, argc > 2 ? argv[2] : NULL);
  if (failed) fprintf(stderr, "%s\n", umrt_last_error());
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  signal(SIGINT, SIG_DFL);
  umrt_cancel_free(cancel);
  return failed;
}

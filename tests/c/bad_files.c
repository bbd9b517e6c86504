/* Models that cannot be opened: the status, what the message says, and that the
 * library prints nothing while it happens. */

#include "fixtures.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char sandbox[] = "/tmp/umrt-bad-files-XXXXXX";

static const char *in_sandbox(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", sandbox, name);
  return path;
}

static void write_file(const char *name, const void *content, size_t length) {
  FILE *file = fopen(in_sandbox(name), "wb");
  REQUIRE(CHECK(file != NULL));
  REQUIRE(CHECK(fwrite(content, 1, length, file) == length && fclose(file) == 0));
}

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

/* A good model, for one thing in it to be broken. */
static void write_good_model(void) {
  const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json"};
  for (int i = 0; i < 3; i++) {
    size_t length;
    char from[256];
    snprintf(from, sizeof from, CHAT_MODEL "/%s", files[i]);
    char *content = read_file(from, &length);
    write_file(files[i], content, length);
    free(content);
  }
}

static void clean_up(void) {
  const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "x.gguf"};
  for (int i = 0; i < 4; i++) {
    const char *path = in_sandbox(names[i]);
    if (unlink(path) != 0 && errno != ENOENT) rmdir(path);
  }
}

static void no_config(void) { unlink(in_sandbox("config.json")); }
static void no_weights(void) { unlink(in_sandbox("model.safetensors")); }
static void config_is_no_json(void) { write_text("config.json", "{\"model_type\": llama}"); }
static void config_is_empty(void) { write_text("config.json", ""); }
static void no_model_type(void) { write_text("config.json", "{}"); }

static void unknown_model_type(void) {
  write_text("config.json", "{\"model_type\": \"mamba9\", \"hidden_size\": 64}");
}

static void no_heads(void) {
  write_text("config.json", "{\"model_type\": \"llama\", \"hidden_size\": 64}");
}

/* One layer more than there are weights for. */
static void third_layer(void) {
  size_t length;
  char *config = read_file(CHAT_MODEL "/config.json", &length);
  char *count = strstr(config, "\"num_hidden_layers\": 2");
  REQUIRE(CHECK(count != NULL));
  count[strlen("\"num_hidden_layers\": ")] = '3';
  write_file("config.json", config, length);
  free(config);
}

static void cut_weights(long length) {
  CHECK_EQUAL(0, truncate(in_sandbox("model.safetensors"), length));
}

static void empty_weights(void) { cut_weights(0); }
static void weights_end_in_header(void) { cut_weights(100); }
static void weights_miss_a_byte(void) {
  struct stat status;
  CHECK_EQUAL(0, stat(in_sandbox("model.safetensors"), &status));
  cut_weights((long)status.st_size - 1);
}

static void absurd_header_length(void) {
  write_text("model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\x7f{}");
}

static void weights_are_a_directory(void) {
  no_weights();
  mkdir(in_sandbox("model.safetensors"), 0700);
}

static void weights_are_a_pipe(void) {
  no_weights();
  CHECK_EQUAL(0, mkfifo(in_sandbox("model.safetensors"), 0600));
}

static void weights_are_a_link_to_itself(void) {
  no_weights();
  CHECK_EQUAL(0, symlink("model.safetensors", in_sandbox("model.safetensors")));
}

static void only_gguf(void) {
  no_weights();
  write_text("x.gguf", "GGUF");
}

typedef struct {
  void (*break_it)(void);
  umrt_status status;
  const char *in_message;
} damage;

static const damage damages[] = {
    {no_config, UMRT_NOT_FOUND, "config.json"},
    {no_weights, UMRT_NOT_FOUND, "safetensors"},
    {config_is_no_json, UMRT_FORMAT, "config.json"},
    {config_is_empty, UMRT_FORMAT, "config.json"},
    {no_model_type, UMRT_FORMAT, "model_type"},
    {unknown_model_type, UMRT_UNSUPPORTED, "mamba9"},
    {no_heads, UMRT_FORMAT, "num_attention_heads"},
    {third_layer, UMRT_FORMAT, "model.layers.2."},
    {empty_weights, UMRT_FORMAT, "model.safetensors"},
    {weights_end_in_header, UMRT_FORMAT, "model.safetensors"},
    {weights_miss_a_byte, UMRT_FORMAT, "model.safetensors"},
    {absurd_header_length, UMRT_FORMAT, "model.safetensors"},
    {weights_are_a_directory, UMRT_FORMAT, "model.safetensors"},
    {weights_are_a_pipe, UMRT_FORMAT, "model.safetensors"},
    {weights_are_a_link_to_itself, UMRT_IO, "model.safetensors"},
    {only_gguf, UMRT_FORMAT, "x.gguf"},
};

static void damaged_models_are_refused(void) {
  for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
    umrt_model *model = NULL;
    write_good_model();
    damages[i].break_it();
    if (!CHECK_FAILS(damages[i].status, damages[i].in_message,
                     umrt_model_open(sandbox, NULL, &model)))
      fprintf(stderr, "  for damage %zu: %s\n", i, umrt_last_error());
    CHECK(model == NULL);
    umrt_model_free(model);
    clean_up();
  }
}

static void paths_that_are_no_model_are_refused(void) {
  umrt_model *model;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  CHECK_FAILS(UMRT_NOT_FOUND, "no/such/model", umrt_model_open("no/such/model", NULL, &model));
  CHECK_FAILS(UMRT_NOT_FOUND, "no/such/model", umrt_model_inspect("no/such/model", &info));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "path", umrt_model_open("", NULL, &model));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "tokenizer.json",
              umrt_model_open(CHAT_MODEL "/tokenizer.json", NULL, &model));
  CHECK_FAILS(UMRT_NOT_FOUND, "config.json", umrt_model_open(sandbox, NULL, &model));
  /* A file of the model stands for its directory. */
  CHECK_OK(umrt_model_open(CHAT_MODEL "/config.json", NULL, &model));
  umrt_model_free(model);
}

static void a_broken_tokenizer_is_found_when_it_is_needed(void) {
  int32_t ids[4];
  write_good_model();
  write_text("tokenizer.json", "{\"version\": 3}");
  umrt_model *model = open_model(sandbox);
  CHECK_FAILS(UMRT_FORMAT, "tokenizer.json", umrt_tokenize(model, "a", 1, 0, ids, 4, NULL));
  umrt_ctx *ctx = new_context(model, 0);
  CHECK_OK(eval_tokens(ctx, (const int32_t[]){35}, 1));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  clean_up();
}

typedef struct {
  int n_messages;
  int n_about_opening;
} heard;

static void listen(int32_t level, const char *message, void *userdata) {
  heard *own = userdata;
  CHECK(level >= UMRT_LOG_ERROR && level <= UMRT_LOG_DEBUG);
  own->n_messages++;
  own->n_about_opening += strstr(message, "opened") != NULL;
}

static void log_messages_go_to_the_callback_alone(void) {
  heard own = {0, 0};
  umrt_log_set(listen, &own, UMRT_LOG_INFO);
  umrt_model_free(open_model(CHAT_MODEL));
  CHECK_EQUAL(1, own.n_about_opening);
  own = (heard){0, 0};
  umrt_log_set(listen, &own, UMRT_LOG_ERROR);
  umrt_model_free(open_model(CHAT_MODEL));
  umrt_log_set(NULL, NULL, UMRT_LOG_DEBUG);
  umrt_model_free(open_model(CHAT_MODEL));
  CHECK_EQUAL(0, own.n_messages);
}

/* Sends a stream's descriptor to a file; returns a copy of the former one. */
static int redirect(int fd, const char *name) {
  const int former = dup(fd);
  const int file = open(in_sandbox(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(CHECK(former >= 0 && file >= 0));
  dup2(file, fd);
  close(file);
  return former;
}

static void restore(int fd, int former, const char *name) {
  struct stat status;
  CHECK_EQUAL(0, fstat(fd, &status));
  dup2(former, fd);
  close(former);
  if (!CHECK_EQUAL(0, status.st_size)) {
    size_t length;
    char *printed = read_file(in_sandbox(name), &length);
    fprintf(stderr, "  %s received: %s\n", name, printed);
    free(printed);
  }
  unlink(in_sandbox(name));
}

int main(void) {
  REQUIRE(CHECK(mkdtemp(sandbox) != NULL));
  fflush(NULL);
  const int out = redirect(STDOUT_FILENO, "stdout");
  const int err = redirect(STDERR_FILENO, "stderr");
  paths_that_are_no_model_are_refused();
  damaged_models_are_refused();
  a_broken_tokenizer_is_found_when_it_is_needed();
  log_messages_go_to_the_callback_alone();
  fflush(NULL);
  /* Failed checks print there, too. */
  restore(STDERR_FILENO, err, "stderr");
  restore(STDOUT_FILENO, out, "stdout");
  CHECK_EQUAL(0, rmdir(sandbox));
  return check_summary(__FILE__);
}

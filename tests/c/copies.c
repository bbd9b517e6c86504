/* Two copies of the library in one process, as when two plug-ins each bring their own,
 * used in turns: neither notices the other, and one goes on when the other is gone. */

#include "loaded.h"

#ifdef __linux__

#include <link.h>
#include <unistd.h>

static void copy_file(const char *from, const char *to) {
  static char piece[1 << 16];
  size_t n;
  FILE *source = fopen(from, "rb");
  FILE *copy = fopen(to, "wb");
  REQUIRE(CHECK(source != NULL && copy != NULL));
  while ((n = fread(piece, 1, sizeof piece, source)) > 0)
    REQUIRE(CHECK(fwrite(piece, 1, n, copy) == n));
  CHECK_EQUAL(0, fclose(copy));
  fclose(source);
}

static const char *version_of(void *library) {
  const char *(*version)(void);
  find_function(library, "umrt_version", &version);
  return version();
}

int main(void) {
  char folder[] = "/tmp/umrt-copies-XXXXXX";
  char path[64];
  struct link_map *map;
  void *library = load_library(LIBRARY);
  REQUIRE(CHECK(mkdtemp(folder) != NULL));
  REQUIRE(CHECK_EQUAL(0, dlinfo(library, RTLD_DI_LINKMAP, &map)));
  /* With another name: that of the soname would find the one that is loaded. */
  snprintf(path, sizeof path, "%s/libother.so", folder);
  copy_file(map->l_name, path);
  void *copy = load_library(path);
  unlink(path);
  rmdir(folder);
  CHECK(version_of(library) != version_of(copy));
  for (int i = 0; i < 3; i++) {
    use_library(library);
    use_library(copy);
  }
  CHECK_EQUAL(0, dlclose(copy));
  use_library(library);
  return check_summary(__FILE__);
}

#else

int main(void) { return check_summary(__FILE__); }

#endif
